"""The routes: health, metrics, devices, rollouts. Uploads are in uploads.py, parts for devices in parts.py, errors in
errors.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from cloud_sync import limits
from cloud_sync.api.bearer import shows
from cloud_sync.api.errors import Handler, speaks_of_errors
from cloud_sync.coordinator import documents
from cloud_sync.coordinator.intents import Intents, unknown_device, unknown_rollout
from cloud_sync.coordinator.memory import Memory
from cloud_sync.coordinator.metrics import Metrics
from cloud_sync.coordinator.planner import Planner
from cloud_sync.core.fleet import Kind, Strategy
from cloud_sync.store.reports import newest_reports
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import DeviceId, Name, Version
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason

T = TypeVar("T")


class AskedPolicy(Policy, frozen=True, forbid_unknown_fields=True):
    """A policy in which a key that is not known is a mistake of whoever typed it."""


class RolloutAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/rollouts."""

    model: Name
    version: Version
    strategy: Literal["all", "one"] = "all"
    devices: Annotated[list[DeviceId], Meta(min_length=1)] | None = None
    policy: AskedPolicy = AskedPolicy()


class RollbackAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/rollback."""

    model: Name
    version: Version
    devices: Annotated[list[DeviceId], Meta(min_length=1)] | None = None


class Api:
    """One aiohttp application. others: routes of other files. token: the operator's, for everything under /v1."""

    def __init__(
        self,
        memory: Memory,
        planner: Planner,
        intents: Intents,
        metrics: Metrics,
        others: Iterable[web.RouteDef],
        token: str,
    ) -> None:
        self._memory = memory
        self._planner = planner
        self._intents = intents
        self._metrics = metrics
        self._others = others
        self._token = token

    def application(self) -> web.Application:
        """All routes, with bounded bodies."""
        app = web.Application(
            middlewares=[speaks_of_errors, self._authorized], client_max_size=limits.JSON_BODY_BYTES_MAX
        )
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._show_metrics),
                web.get("/v1/snapshots", self._snapshots),
                web.get("/v1/devices", self._devices),
                web.get("/v1/devices/{id}", self._device),
                web.get("/v1/devices/{id}/token", self._device_token),
                web.get("/v1/rollouts", self._rollouts),
                web.get("/v1/rollouts/{id}", self._rollout),
                web.post("/v1/rollouts", self._start_rollout),
                web.post("/v1/rollback", self._roll_back),
                web.post("/v1/resume", self._resume),
                *self._others,
            ]
        )
        return app

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1/") and not shows(request, self._token):
            raise Rejected("this needs the operator's token", reason=Reason.NOT_AUTHORIZED)
        return await handler(request)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response(documents.health(self._memory))

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(self._memory), content_type="text/plain", charset="utf-8")

    async def _snapshots(self, _: web.Request) -> web.Response:
        return web.json_response(documents.snapshots(self._memory))

    async def _devices(self, _: web.Request) -> web.Response:
        records = [record for _, record in sorted(self._memory.records.items())]
        return web.json_response({"devices": [documents.device(self._memory, record) for record in records]})

    async def _device(self, request: web.Request) -> web.Response:
        device_id = request.match_info["id"]
        record = self._memory.records.get(device_id)
        if record is None:
            raise unknown_device(device_id, self._memory.records)
        kept = await self._memory.database.run(lambda c: newest_reports(c, device_id, limits.REPORTS_SHOWN_MAX))
        reports = [{**msgspec.json.decode(raw), "received_unix_ms": at} for at, raw in kept]
        return web.json_response({**documents.device(self._memory, record), "reports": reports})

    async def _device_token(self, request: web.Request) -> web.Response:
        """Also of a device that never said hello: it is needed to set one up."""
        device_id = request.match_info["id"]
        try:
            msgspec.convert(device_id, DeviceId)
        except msgspec.ValidationError as error:
            raise Rejected(f"{device_id!r} cannot be the id of a device: {error}", reason=Reason.MALFORMED) from error
        return web.json_response({"device_id": device_id, "token": self._memory.signer.device_token(device_id)})

    async def _rollouts(self, _: web.Request) -> web.Response:
        return web.json_response({"rollouts": documents.rollouts(self._memory)})

    async def _rollout(self, request: web.Request) -> web.Response:
        return self._shown(request.match_info["id"])

    async def _start_rollout(self, request: web.Request) -> web.Response:
        asked = await body(request, RolloutAsked)
        rollout = await self._intents.roll_out(
            asked.model,
            asked.version,
            strategy=Strategy(asked.strategy),
            kind=Kind.ROLLOUT,
            devices=asked.devices,
            policy=Policy(**msgspec.structs.asdict(asked.policy)),
        )
        return self._shown(rollout.rollout_id, nested=True)

    async def _roll_back(self, request: web.Request) -> web.Response:
        asked = await body(request, RollbackAsked)
        rollout = await self._intents.roll_out(
            asked.model, asked.version, strategy=Strategy.ALL, kind=Kind.ROLLBACK, devices=asked.devices
        )
        return self._shown(rollout.rollout_id, nested=True)

    async def _resume(self, _: web.Request) -> web.Response:
        await self._planner.resume()
        return web.json_response({"planning": documents.planning(self._memory)})

    def _shown(self, rollout_id: str, *, nested: bool = False) -> web.Response:
        document = documents.rollout(self._memory, rollout_id)
        if document is None:
            raise unknown_rollout(rollout_id, (rollout.rollout_id for rollout in self._memory.rollouts))
        return web.json_response({"rollout": document} if nested else document)


async def body(request: web.Request, kind: type[T]) -> T:
    """The JSON body as this type. Raises Rejected: malformed."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rejected(
            f"the body is malformed: {error}", reason=Reason.MALFORMED, next_step="See docs/coordinator.md"
        ) from error

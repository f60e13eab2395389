"""Parts for devices over HTTP: the token of a device, the request, a bounded number at once. Who may have what is
`coordinator.handout`'s matter.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

from aiohttp import web

from cloud_sync import limits
from cloud_sync.api.bearer import shows
from cloud_sync.api.errors import answer
from cloud_sync.coordinator.handout import Handout
from cloud_sync.repository.shelf import Part
from edge_agent.contract import limits as contract_limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.reasons import Reason
from edge_agent.contract.transfer import (
    STATUS_HEADER,
    TOTAL_BYTES_HEADER,
    Get,
    Kind,
    Status,
    may_be_named,
    parts_path,
)

WAY = "http"
OFFSET_DIGITS_MAX = 12  # nothing here is a terabyte
SAID = {
    Status.MALFORMED: "there can be no such part",
    Status.NOT_ASSIGNED: "this was never assigned to this device",
    Status.NOT_THERE: "there is no such thing here",
    Status.BEYOND: "that is beyond its end",
    Status.TRY_LATER: "not now; ask again later",
}


class TokenMaker(Protocol):
    """Knows each device's token."""

    def device_token(self, device_id: str) -> str:
        """Of this device."""


class PartsOverHttp:
    """Handlers for devices. A request too many is answered 503 at once: the device has another way."""

    def __init__(self, handout: Handout, *, signer: TokenMaker) -> None:
        self._handout = handout
        self._signer = signer
        self._of_device: Counter[str] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """All under /device/v1."""
        return [web.get(parts_path("{device}", "{kind}", "{name}"), self._part)]

    async def _part(self, request: web.Request) -> web.StreamResponse:
        device_id = request.match_info["device"]
        self._check_token(request, device_id)
        get = asked(request)
        if get is None:
            self._handout.note(device_id, None, Part(Status.MALFORMED), sent=True, way=WAY)
            return refusal(Status.MALFORMED)
        if (
            self._of_device.total() >= limits.PARTS_AT_ONCE
            or self._of_device[device_id] >= limits.PARTS_PER_DEVICE_AT_ONCE
        ):
            self._handout.note_dropped(WAY)
            return refusal(Status.TRY_LATER)
        self._of_device[device_id] += 1
        try:
            part = await self._handout.part(device_id, get)
            if part.status != Status.OK:
                self._handout.note(device_id, get, part, sent=True, way=WAY)
                return refusal(part.status)
            return await self._send(request, device_id, get, part)
        finally:
            self._of_device[device_id] -= 1
            if not self._of_device[device_id]:
                del self._of_device[device_id]

    def _check_token(self, request: web.Request, device_id: str) -> None:
        if not shows(request, self._signer.device_token(device_id)):
            raise Rejected(
                "this needs the device's own token",
                reason=Reason.NOT_AUTHORIZED,
                next_step="Give it with http_token_file in [sync]; `fleet devices token ID` tells it",
            )

    async def _send(self, request: web.Request, device_id: str, get: Get, part: Part) -> web.StreamResponse:
        """Sent here and not by returning it, so that it counts as under way until the device has taken it."""
        response = web.StreamResponse(headers=words(part))
        response.content_type = "application/octet-stream"
        response.content_length = len(part.content)
        sent = False
        try:
            async with asyncio.timeout(limits.PART_SEND_S):
                await response.prepare(request)
                await response.write(part.content)
                await response.write_eof()
            sent = True
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._handout.note(device_id, get, part, sent=sent, way=WAY)
        return response


def asked(request: web.Request) -> Get | None:
    """What is asked for; None when there can be no such part. Longer than over MQTT: no broker copies it."""
    kind, name = request.match_info["kind"], request.match_info["name"]
    numbers = [request.query.get(key, "") for key in ("offset", "length")]
    if kind not in set(Kind) or not may_be_named(Kind(kind), name):
        return None
    if not all(text.isascii() and text.isdigit() and len(text) <= OFFSET_DIGITS_MAX for text in numbers):
        return None
    offset, length = map(int, numbers)
    return Get(Kind(kind), name, offset, length) if 1 <= length <= contract_limits.HTTP_PART_BYTES_MAX else None


def words(part: Part) -> dict[str, str]:
    """The words of an answer, as headers."""
    total = {TOTAL_BYTES_HEADER: str(part.total_bytes)} if part.status == Status.OK else {}
    return {STATUS_HEADER: str(int(part.status)), **total}


def refusal(status: Status) -> web.Response:
    """An answer without a part."""
    response = answer(status, SAID[status], "See docs/protocol.md")
    response.headers.update(words(Part(status)))
    return response

"""The publisher's uploads over HTTP; what is checked and where it is kept is `repository.intake`'s matter."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from cloud_sync import limits
from cloud_sync.coordinator.memory import Memory, now_unix_ms
from cloud_sync.coordinator.planner import Planner
from cloud_sync.repository.intake import Intake
from cloud_sync.store.snapshots import all_snapshots, remember_snapshots
from edge_agent.contract import limits as contract_limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import EVIDENCE_BYTES_MAX, decode_evidence
from edge_agent.contract.manifest import Sha256
from edge_agent.contract.reasons import Reason


class MissingAsked(Struct, frozen=True):
    """The body of POST /v1/repository/missing."""

    chunks: Annotated[list[Sha256], Meta(max_length=contract_limits.SNAPSHOT_CHUNKS_MAX)]


class Uploads:
    """Handlers; files are written in threads."""

    def __init__(self, memory: Memory, planner: Planner, intake: Intake) -> None:
        self._memory = memory
        self._planner = planner
        self._intake = intake
        self._one_at_a_time = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """All under /v1/repository."""
        return [
            web.post("/v1/repository/missing", self._missing),
            web.put("/v1/repository/chunks/{sha256}", self._chunk),
            web.put("/v1/repository/manifests/{name}/{version}", self._manifest),
            web.put("/v1/repository/coordinator", self._coordinator),
            web.post("/v1/repository/metadata", self._metadata),
        ]

    async def _missing(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=MissingAsked)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Rejected(f"the body is malformed: {error}", reason=Reason.MALFORMED) from error
        missing = await asyncio.to_thread(self._intake.missing_chunks, asked.chunks)
        return web.json_response({"missing": missing})

    async def _chunk(self, request: web.Request) -> web.Response:
        raw = await bounded(request, contract_limits.CHUNK_BYTES)
        await asyncio.to_thread(self._intake.take_chunk, request.match_info["sha256"], raw)
        return web.json_response({"ok": True})

    async def _manifest(self, request: web.Request) -> web.Response:
        raw = await bounded(request, contract_limits.MANIFEST_BYTES_MAX)
        name, version = request.match_info["name"], request.match_info["version"]
        await asyncio.to_thread(self._intake.take_manifest, name, version, raw, self._digests())
        return web.json_response({"ok": True})

    async def _coordinator(self, request: web.Request) -> web.Response:
        raw = await bounded(request, contract_limits.COORDINATOR_KEY_BYTES_MAX)
        await asyncio.to_thread(self._intake.take_coordinator, raw)
        return web.json_response({"ok": True})

    async def _metadata(self, request: web.Request) -> web.Response:
        evidence = decode_evidence(await bounded(request, EVIDENCE_BYTES_MAX))
        memory = self._memory
        async with self._one_at_a_time:
            memory.catalog = await asyncio.to_thread(
                self._intake.take_metadata, evidence, memory.catalog, self._digests()
            )
            await note_snapshots(memory)
        await self._planner.judge_all()
        await self._planner.plan_now()
        await self._planner.outbound.assignments(sorted(memory.records))  # a new epoch may make them count
        return web.json_response({"snapshots": len(memory.catalog.entries)})

    def _digests(self) -> dict[tuple[str, str], str]:
        return {label: digest for label, (digest, _) in self._memory.known.items()}


async def note_snapshots(memory: Memory) -> None:
    """Remember when each snapshot of the catalog came, and that its version means it for good."""
    found = [(entry.digest, entry.name, entry.version) for entry in memory.catalog.entries.values()]
    new = [one for one in found if (one[1], one[2]) not in memory.known]
    if new:
        await memory.database.run(lambda connection: remember_snapshots(connection, new, now_unix_ms()))
        memory.known = await memory.database.run(all_snapshots)


async def bounded(request: web.Request, bytes_max: int) -> bytes:
    """The raw body. Raises Rejected: too_large, before it is all here."""
    if (request.content_length or 0) > bytes_max:
        raise Rejected(f"the body has more than {bytes_max} bytes", reason=Reason.TOO_LARGE)
    raw = bytearray()
    async for piece in request.content.iter_chunked(limits.KIB * 64):
        raw += piece
        if len(raw) > bytes_max:
            raise Rejected(f"the body has more than {bytes_max} bytes", reason=Reason.TOO_LARGE)
    return bytes(raw)

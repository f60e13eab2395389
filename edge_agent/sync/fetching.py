"""Whole things from parts: buffers that outlive a connection, so that a cut costs only what was in flight. Where parts
come from is `requests`'; what a thing means is its asker's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Rejected
from edge_agent.contract.reasons import Reason
from edge_agent.contract.transfer import Kind
from edge_agent.sync import parts
from edge_agent.sync.requests import Source

PARTIALS_MAX = 4  # a manifest (4 MiB at most), then three chunks, with one to spare
ASKERS = 8  # parts of one thing in flight at once; bytes are bounded by the source


@dataclass
class _Partial:
    """What is there of one thing."""

    buffer: bytearray
    missing: parts.Missing
    users: int = field(default=0)


class Fetcher:
    """Fetches whole things. What was begun is kept until it is whole, or others were begun since."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._partials: dict[tuple[Kind, str], _Partial] = {}

    async def by_hash(self, kind: Kind, sha256: str, *, bytes_max: int, total_bytes: int | None = None) -> bytes:
        """A manifest or chunk, whose name is its SHA-256; checked. Goes on where an earlier call was cut off.

        Raises NotServed, LineCut, Unavailable, and Rejected (chunk_mismatch, too_large) for other bytes than those.
        """
        key = (kind, sha256)
        partial = self._partials.pop(key, None) or await self._begun(kind, sha256, bytes_max, total_bytes)
        self._partials[key] = partial  # the newest last
        while len(self._partials) > PARTIALS_MAX:
            del self._partials[next(iter(self._partials))]
        await self._fill(kind, sha256, partial)
        self._partials.pop(key, None)
        raw = bytes(partial.buffer)
        if sha256_hex(raw) != sha256:
            raise Rejected(f"the {kind} that came is not {sha256}", reason=Reason.CHUNK_MISMATCH)
        return raw

    async def by_name(self, kind: Kind, name: str, *, bytes_max: int) -> bytes:
        """A file that may be another one tomorrow: nothing of an earlier call is used.

        Raises NotServed, LineCut, Unavailable, Rejected (too_large).
        """
        partial = await self._begun(kind, name, bytes_max, None)
        await self._fill(kind, name, partial)
        return bytes(partial.buffer)

    async def _begun(self, kind: Kind, name: str, bytes_max: int, total_bytes: int | None) -> _Partial:
        """Its length is known beforehand, or told with the first part."""
        if total_bytes is not None:
            return _Partial(bytearray(total_bytes), parts.missing_all(total_bytes))
        first = await self._source.part(kind, name, 0, self._source.part_bytes())
        if first.total_bytes > bytes_max:
            said = f"{kind} {name} has {first.total_bytes} bytes, at most {bytes_max}"
            raise Rejected(said, reason=Reason.TOO_LARGE)
        partial = _Partial(bytearray(first.total_bytes), parts.missing_all(first.total_bytes))
        partial.buffer[: len(first.data)] = first.data
        partial.missing = parts.without(partial.missing, 0, len(first.data))
        return partial

    async def _fill(self, kind: Kind, name: str, partial: _Partial) -> None:
        await together(*(self._ask(kind, name, partial) for _ in range(ASKERS)))

    async def _ask(self, kind: Kind, name: str, partial: _Partial) -> None:
        """Ask for one missing part after the other; what does not come is missing again."""
        while (wanted := parts.next_part(partial.missing, self._source.part_bytes())) is not None:
            offset, length = wanted
            partial.missing = parts.without(partial.missing, offset, length)
            came = 0
            try:
                part = await self._source.part(kind, name, offset, length)
                if part.total_bytes != len(partial.buffer) or not part.data:
                    said = f"{kind} {name} has {part.total_bytes} bytes now, {len(partial.buffer)} before"
                    self._partials.pop((kind, name), None)
                    raise Rejected(said, reason=Reason.CHUNK_MISMATCH)
                came = len(part.data)
                partial.buffer[offset : offset + came] = part.data
            finally:
                partial.missing = parts.with_again(partial.missing, offset + came, length - came)


async def together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run these at once; the first error ends the others and is raised as it is."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        for ended in asyncio.as_completed(tasks):
            await ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""Parts from the coordinator over HTTP: one request each, time-outs, bounded bytes in flight; an implementation of
`requests.Source`. Which way is taken is decided in `ways`.

aiohttp is imported at the first request only: without HTTP this process does not pay 5 MB for it.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Unavailable
from edge_agent.contract.transfer import STATUS_HEADER, TOTAL_BYTES_HEADER, Kind, Status, parts_path
from edge_agent.sync.requests import NotServed, Part

if TYPE_CHECKING:
    import aiohttp

AT_ONCE = 3  # two chunks and a metadata file; 3 MiB of this process's memory at most
CONNECT_S = 10.0
SILENCE_S = 15.0  # a server that sends nothing for so long is gone
WHOLE_S = 300.0  # 1 MiB at 28 kbit/s; what came until then is kept
PIECE_BYTES = 64 * limits.KIB
LINE_BYTES_MAX = 8 * limits.KIB  # of a header; aiohttp refuses longer ones


class HttpFails(Unavailable):
    """There is no way over HTTP now: no connection, no answer in time, or not the coordinator's."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the coordinator is and who we are to it. url: without a slash at its end. Files are paths."""

    url: str
    device_id: str
    token_file: str
    ca_file: str | None = None

    def token(self) -> str:
        """Read anew for each request: a changed one needs no restart. Raises HttpFails."""
        try:
            with open(self.token_file, encoding="ascii") as file:
                token = file.read(limits.KIB).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HttpFails(f"http_token_file: {error}") from error
        if not token.isprintable() or not token:
            raise HttpFails(f"http_token_file: {self.token_file} holds no token")
        return token

    def tls(self) -> ssl.SSLContext:
        """The authority of [sync], or those of the system. Blocking. Raises HttpFails."""
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise HttpFails(f"ca_file: {error}") from error


class HttpSource:
    """One for the process. A part may come shorter than it was asked for: what arrived before a cut is kept."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._beginning = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    def part_bytes(self) -> int:
        """A whole chunk: nothing has to wait behind it, for assignments come on another connection."""
        return limits.HTTP_PART_BYTES_MAX

    async def part(self, kind: Kind, name: str, offset: int, length: int) -> Part:
        """One part. Raises NotServed as the coordinator says, HttpFails for everything else."""
        length = min(length, limits.HTTP_PART_BYTES_MAX)
        async with self._turns:
            session = await self._begun()
            try:
                return await self._ask(session, kind, name, offset, length)
            except HoldfastError:
                raise
            except Exception as error:  # aiohttp has its own errors, and more of them than it names
                raise HttpFails(f"{kind} {name}: {type(error).__name__}: {error}"[: limits.DETAIL_CHARS_MAX]) from error

    async def close(self) -> None:
        """Hang up. The process ends without it, as it does with everything."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, session: aiohttp.ClientSession, kind: Kind, name: str, offset: int, length: int) -> Part:
        what = f"{kind} {name} at {offset}"
        asking = session.get(
            self._server.url + parts_path(self._server.device_id, kind, name),
            params={"offset": str(offset), "length": str(length)},
            headers={"Authorization": f"Bearer {self._server.token()}", "Accept-Encoding": "identity"},
            allow_redirects=False,  # the token is for this server alone
        )
        async with asking as answer:
            if answer.headers.get(STATUS_HEADER) != str(answer.status):
                raise HttpFails(f"the server answered {answer.status} to {what}, and is not the coordinator then")
            if answer.status != Status.OK:
                raise NotServed(answer.status, what)
            total = _number(answer.headers.get(TOTAL_BYTES_HEADER, ""))
            if total is None or offset > total:
                raise HttpFails(f"the answer to {what} does not say how long the whole is")
            return Part(await _body(answer, min(length, total - offset), what), total)

    async def _begun(self) -> aiohttp.ClientSession:
        async with self._beginning:
            if self._session is None:
                library, tls = await asyncio.to_thread(_prepared, self._server)
                self._session = _session(library, tls)
            return self._session


async def _body(answer: aiohttp.ClientResponse, expected: int, what: str) -> bytes:
    """Its bytes; fewer when the connection ends in between. Raises HttpFails for more than expected, or none."""
    raw = bytearray()
    try:
        async for piece in answer.content.iter_chunked(PIECE_BYTES):
            raw += piece
            if len(raw) > expected:
                raise HttpFails(f"the answer to {what} is longer than it may be")
    except HoldfastError:
        raise
    except Exception:
        if not raw:
            raise
    if not raw and expected:
        raise HttpFails(f"the answer to {what} is empty")
    return bytes(raw)


def _prepared(server: Server) -> tuple[ModuleType, ssl.SSLContext]:
    """In a thread: both take long enough to hold up everything else."""
    import aiohttp

    return aiohttp, server.tls()


def _session(library: Any, tls: ssl.SSLContext) -> aiohttp.ClientSession:
    session: aiohttp.ClientSession = library.ClientSession(
        connector=library.TCPConnector(ssl=tls),
        timeout=library.ClientTimeout(total=WHOLE_S, sock_connect=CONNECT_S, sock_read=SILENCE_S),
        cookie_jar=library.DummyCookieJar(),
        auto_decompress=False,  # a small answer must not become a large one here
        max_line_size=LINE_BYTES_MAX,
        max_field_size=LINE_BYTES_MAX,
        read_bufsize=PIECE_BYTES,
    )
    return session


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None

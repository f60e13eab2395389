"""One HTTP conversation with a coordinator: time-outs, bounds, the token, errors as ours. What is asked is api.py's.

Nothing that comes back is believed for its form: the other side may be any server.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from edge_agent.contract import limits
from edge_agent.contract.errors import Bug, HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason, reason_from_word

TOKEN_BYTES_MAX = 4096  # far more than `cloud-sync init` writes
URL_STEP = "Set HOLDFAST_COORDINATOR to the coordinator's address, as in http://127.0.0.1:8080"
TOKEN_STEP = "Set HOLDFAST_TOKEN_FILE to a copy of the file `token` in the coordinator's data folder"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long (seconds) and how much (bytes) one request may take; connecting is part of the whole."""

    connect_s: float = 10.0
    answer_s: float = 30.0
    upload_s: float = 300.0  # a chunk of 1 MiB over a line of 30 kbit/s
    answer_bytes_max: int = 64 * limits.MIB  # about 20,000 devices that tell all they may


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON document with status 200. at_unix_ms: the coordinator's clock when it answered, whole seconds."""

    document: dict[str, Any]
    at_unix_ms: int | None


class Transport(AbstractContextManager["Transport"]):
    """Requests to one coordinator, one after another, over one connection that is kept; use with `with`."""

    def __init__(self, url: str, token: str, *, bounds: Bounds | None = None) -> None:
        """Raises Rejected when this is no address of a coordinator."""
        self.url = _checked_url(url)
        self._token = token
        self._bounds = bounds or Bounds()
        self._runner: asyncio.Runner | None = None
        self._session: aiohttp.ClientSession | None = None

    def __enter__(self) -> Transport:
        self._runner = asyncio.Runner()
        self._session = self._runner.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None and self._session is not None:
            self._runner.run(self._session.close())
            self._runner.close()

    @property
    def is_plain(self) -> bool:
        """Whether the token travels unencrypted over a network."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")

    def ask(self, method: str, path: str, *, document: Any = None, raw: bytes | None = None) -> Answer:
        """One request, with a JSON document or raw bytes as its body; raw bytes get the longer time.

        Raises Rejected or Unavailable as the coordinator says; Unavailable when it cannot be reached or does not
        answer in time; Rejected when the other side is no coordinator.
        """
        if self._runner is None:
            raise Bug("a Transport is used with `with`")
        whole_s = self._bounds.answer_s if raw is None else self._bounds.upload_s
        if raw is None and document is not None:
            raw = msgspec.json.encode(document)
        try:
            status, body, date = self._runner.run(self._exchange(method, path, raw, whole_s))
        except aiohttp.ConnectionTimeoutError as error:
            raise self._unreachable(f"no connection within {self._bounds.connect_s:g} s") from error
        except TimeoutError as error:
            raise Unavailable(
                f"the coordinator at {self.url} did not answer within {whole_s:g} s",
                next_step="Look at its log; if it is only busy, try again later",
            ) from error
        except aiohttp.ClientResponseError as error:
            raise self.stranger("what it sends is not HTTP") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(_cause(error)) from error
        if status == 200:
            return Answer(self._document(body), _unix_ms(date))
        raise self._error(status, body)

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # The token belongs to this address: no redirects are followed, no proxy is taken from the environment.
            headers={"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"},
            connector=aiohttp.TCPConnector(limit=1),
            auto_decompress=False,
        )

    async def _exchange(self, method: str, path: str, raw: bytes | None, whole_s: float) -> tuple[int, bytes, str]:
        if self._session is None:
            raise Bug("a Transport is used with `with`")
        timeout = aiohttp.ClientTimeout(total=whole_s, sock_connect=self._bounds.connect_s)
        async with self._session.request(
            method, self.url + path, data=raw, timeout=timeout, allow_redirects=False
        ) as response:
            body = bytearray()
            async for piece in response.content.iter_chunked(64 * limits.KIB):
                body += piece
                if len(body) > self._bounds.answer_bytes_max:
                    raise self.stranger(f"its answer has more than {self._bounds.answer_bytes_max} bytes")
            return response.status, bytes(body), response.headers.get("Date", "")

    def _document(self, body: bytes) -> dict[str, Any]:
        document = _parsed(body)
        if document is None:
            raise self.stranger("its answer is not a JSON document")
        return document

    def _error(self, status: int, body: bytes) -> HoldfastError:
        """What the coordinator said, as the error that it was there; else what a stranger's answer means."""
        document = _parsed(body) or {}
        message, next_step, word = (document.get(key) for key in ("message", "next_step", "reason"))
        if document.get("ok") is not False or not isinstance(message, str):
            if status >= 500:
                return Unavailable(
                    f"the coordinator at {self.url} failed (status {status})",
                    next_step="Look at its log, or at that of the proxy before it; then try again",
                )
            return self.stranger(f"it answered with status {status}")
        kind = Unavailable if status >= 500 else Rejected
        step = next_step if isinstance(next_step, str) else ""
        return kind(message[: 4 * limits.DETAIL_CHARS_MAX], reason=_known(word), next_step=step or "See its log")

    def _unreachable(self, why: str) -> Unavailable:
        return Unavailable(
            f"the coordinator at {self.url} cannot be reached: {why}",
            next_step="Check HOLDFAST_COORDINATOR, and that `cloud-sync serve` runs there",
        )

    def stranger(self, what: str) -> Rejected:
        """The error for an answer that a coordinator does not give."""
        return Rejected(f"{self.url} does not answer as a coordinator does: {what}", next_step=URL_STEP)


def read_token(path: Path) -> str:
    """The operator's token in this file. Raises Rejected when there is none."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(TOKEN_BYTES_MAX + 1)
    except OSError as error:
        raise Rejected(
            f"the token file {path} cannot be read: {error.strerror}",
            reason=Reason.NOT_AUTHORIZED,
            next_step=TOKEN_STEP,
        ) from error
    token = raw.decode("ascii", "replace").strip()
    if not token or len(raw) > TOKEN_BYTES_MAX or not all("!" <= char <= "~" for char in token):
        raise Rejected(f"there is no token in {path}", reason=Reason.NOT_AUTHORIZED, next_step=TOKEN_STEP)
    return token


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or parts.username or parts.password or parts.query or parts.fragment:
        raise Rejected(f"{url!r} is not the address of a coordinator", next_step=URL_STEP)
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _known(word: object) -> Reason | None:
    try:
        return reason_from_word(word) if isinstance(word, str) else None
    except KeyError:
        return None  # of a newer coordinator: its message and next step say what is meant


def _cause(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error.strerror or error.os_error)
    return str(error).partition("\n")[0][: limits.DETAIL_CHARS_MAX] or type(error).__name__


def _unix_ms(date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(date).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None

"""The source over HTTP alone: whom it believes to be the server, how long it waits, and what it keeps of a body."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from aiohttp import web

from edge_agent.contract import limits
from edge_agent.contract.transfer import STATUS_HEADER, Get, Kind
from edge_agent.sync import http_source
from edge_agent.sync.http_source import HttpFails, HttpSource, Server
from edge_agent.sync.requests import NotServed, Part
from tests.broker.certificates import Authority
from tests.sync.runtime import DEVICE
from tests.sync.web import TOKEN, HttpCoordinator, Shelf

NAME = "c" * 64
CHUNK = bytes(range(256)) * (limits.MIB // 256)
SHELF = Shelf({(Kind.CHUNK, NAME): CHUNK})


def ask(
    folder: Path, url: str, *offsets: int, ca_file: Path | None = None, length: int = limits.MIB
) -> list[Part | Exception]:
    """Ask for the chunk from these offsets on, at once, with one source."""
    token = folder / "token"
    token.write_text(TOKEN)

    async def run() -> list[Part | Exception]:
        source = HttpSource(Server(url, DEVICE, str(token), str(ca_file) if ca_file else None))
        asking = [source.part(Kind.CHUNK, NAME, offset, length) for offset in offsets]
        found = await asyncio.gather(*asking, return_exceptions=True)
        await source.close()
        return [one for one in found if isinstance(one, Part | Exception)]

    return asyncio.run(run())


@pytest.mark.parametrize(("trusts", "believed"), [("own", True), ("other", False), ("system", False)])
def test_only_a_server_of_the_authority_that_is_named_is_asked(tmp_path: Path, trusts: str, believed: bool) -> None:
    authority, other = Authority(tmp_path / "own"), Authority(tmp_path / "other")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue("coordinator"))
    ca_file = {"own": authority.folder / "ca.pem", "other": other.folder / "ca.pem", "system": None}[trusts]
    with HttpCoordinator(SHELF, tls) as server:
        (found,) = ask(tmp_path, server.url, 0, ca_file=ca_file)
    if believed:
        assert found == Part(CHUNK, limits.MIB)
    else:
        assert isinstance(found, HttpFails) and "certificate" in str(found).lower()
        assert not server.asked, "the token was shown to nobody"


def test_a_file_of_authorities_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        (found,) = ask(tmp_path, "https://127.0.0.1:1", 0, ca_file=path)
        assert isinstance(found, HttpFails) and "ca_file" in str(found)


def test_a_server_that_says_nothing_more_is_left_and_what_came_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_source, "SILENCE_S", 0.3)
    with HttpCoordinator(SHELF) as server:
        server.silent = True
        server.cut = lambda _get: 100_000
        (found,) = ask(tmp_path, server.url, 0)
        assert found == Part(CHUNK[:100_000], limits.MIB)
        server.cut = lambda _get: 0
        (found,) = ask(tmp_path, server.url, 0)
        assert isinstance(found, HttpFails)


def test_no_more_than_a_few_are_under_way_at_once(tmp_path: Path) -> None:
    most: list[int] = []
    ended: list[Get] = []

    def note(get: Get) -> web.StreamResponse | None:
        most.append(len(server.asked) - len(ended))
        ended.append(get)
        return None

    with HttpCoordinator(SHELF) as server:
        server.fault = note
        found = ask(tmp_path, server.url, *range(0, 12 * 1000, 1000), length=1000)
    assert [part.data for part in found if isinstance(part, Part)] == [
        CHUNK[at : at + 1000] for at in range(0, 12_000, 1000)
    ]
    assert max(most) <= http_source.AT_ONCE


@pytest.mark.parametrize("status", [400, 403, 404, 416, 503])
def test_what_the_coordinator_answers_is_told_as_it_is(tmp_path: Path, status: int) -> None:
    def fault(_: Get) -> web.StreamResponse:
        return web.Response(status=status, headers={STATUS_HEADER: str(status)})

    with HttpCoordinator(SHELF) as server:
        server.fault = fault
        (found,) = ask(tmp_path, server.url, 0)
    assert isinstance(found, NotServed) and found.status == status

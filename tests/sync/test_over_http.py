"""Releases over HTTP: first when it is configured, over MQTT while it fails, and what came stays in any case."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from edge_agent.contract import limits
from edge_agent.contract.transfer import STATUS_HEADER, TOTAL_BYTES_HEADER, Get, Kind
from tests.harness.broker import HOST
from tests.publishing import Publisher
from tests.sync.stand import Stand
from tests.sync.test_downloads import published
from tests.sync.web import TOKEN, HttpCoordinator, wait_asked


@pytest.fixture
def http(stand: Stand) -> Iterator[HttpCoordinator]:
    """With the token file beside."""
    (stand.folder / "token").write_text(TOKEN + "\n")
    with HttpCoordinator(stand.coordinator) as server:
        yield server


def start(stand: Stand, url: str) -> None:
    """Start the process with this way."""
    stand.start("--http", url, "--http-token-file", str(stand.folder / "token"))


def ranges(gets: list[Get], things: dict[tuple[Kind, str], bytes]) -> list[tuple[str, int]]:
    """Each byte of a chunk that was asked for, as often as it was."""
    return [
        (get.name, at)
        for get in gets
        if get.kind is Kind.CHUNK
        for at in range(get.offset, min(get.offset + get.length, len(things[get.kind, get.name])))
    ]


def test_all_of_a_release_comes_over_http_whole_chunks_at_once(
    stand: Stand, publisher: Publisher, http: HttpCoordinator
) -> None:
    digest = published(stand, publisher, 3 * limits.MIB + 5)
    stand.runtime.want(digest, "1.0.0")
    start(stand, http.url)
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end")
    assert not stand.coordinator.asked, "nothing was asked for over MQTT"
    assert {get.kind for get in http.asked} == set(Kind), "also the metadata: python-tuf asks through the same source"
    assert limits.MIB in {get.length for get in http.asked_for(Kind.CHUNK)}
    bytes_of = ranges(http.served, stand.coordinator.things)
    assert len(bytes_of) == len(set(bytes_of)), "no byte came twice"


def refused(_: Get) -> web.StreamResponse | None:
    return web.Response(status=401)


def broken(_: Get) -> web.StreamResponse | None:
    return web.Response(status=500, headers={STATUS_HEADER: "500"})


def busy(_: Get) -> web.StreamResponse | None:
    return web.Response(status=503, headers={STATUS_HEADER: "503"})


def portal(_: Get) -> web.StreamResponse | None:
    return web.Response(text="<html>Welcome to our hotel</html>")


def stranger(_: Get) -> web.StreamResponse | None:
    return web.Response(status=404, text="nginx")


def moved(_: Get) -> web.StreamResponse | None:
    return web.Response(status=302, headers={"Location": "?offset=0&length=1"})


def endless(get: Get) -> web.StreamResponse | None:
    return web.Response(body=bytes(get.length + 1), headers={STATUS_HEADER: "200", TOTAL_BYTES_HEADER: "9999999"})


def empty(_: Get) -> web.StreamResponse | None:
    return web.Response(headers={STATUS_HEADER: "200", TOTAL_BYTES_HEADER: "9999999"})


def silent_about_its_length(_: Get) -> web.StreamResponse | None:
    return web.Response(body=b"x", headers={STATUS_HEADER: "200"})


@pytest.mark.parametrize(
    "fault", [refused, broken, busy, portal, stranger, moved, endless, empty, silent_about_its_length]
)
def test_whatever_is_wrong_with_http_everything_comes_over_mqtt(
    stand: Stand, publisher: Publisher, http: HttpCoordinator, fault: Callable[[Get], web.StreamResponse | None]
) -> None:
    digest = published(stand, publisher)
    http.fault = fault
    stand.runtime.want(digest, "1.0.0")
    start(stand, http.url)
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end")
    assert 1 <= len(http.asked) <= 6, "no redirect is followed, and it is not tried again and again"
    assert "http_fails" in stand.log(100)
    assert {get.kind for get in stand.coordinator.asked} >= {Kind.METADATA, Kind.MANIFEST, Kind.CHUNK}


def test_an_address_where_nobody_listens_costs_only_a_try(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher)
    (stand.folder / "token").write_text(TOKEN)
    with socket.create_server((HOST, 0)) as closed:
        port = closed.getsockname()[1]
    stand.runtime.want(digest, "1.0.0")
    start(stand, f"http://{HOST}:{port}")
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end")
    assert "Cannot connect" in stand.log(100)


def test_a_token_that_is_put_there_later_is_used_without_a_restart(
    stand: Stand, publisher: Publisher, http: HttpCoordinator
) -> None:
    first = published(stand, publisher, 7, "1.0.0", 10)
    (stand.folder / "token").unlink()
    stand.runtime.want(first, "1.0.0")
    start(stand, http.url)
    stand.until(lambda: stand.runtime.offered == [first], "it is offered to the end")
    assert "http_token_file" in stand.log(100) and not http.asked
    (stand.folder / "token").write_text(TOKEN)
    stand.link.bytes_per_s = limits.MIB
    stand.runtime.want(published(stand, publisher, 20 * limits.MIB, "1.1.0", 11), "1.1.0")
    stand.until(lambda: http.served, "it is asked with the token that is there now", 30.0)


def test_a_cut_in_the_middle_keeps_what_came_and_the_rest_comes_over_mqtt(
    stand: Stand, publisher: Publisher, http: HttpCoordinator
) -> None:
    digest = published(stand, publisher, 3 * limits.MIB)
    cuts: list[Get] = []
    kept = 700_000

    def cut(get: Get) -> int | None:
        if get.kind is Kind.CHUNK and get.length == limits.MIB and not cuts:
            cuts.append(get)
            http.fault = broken
            return kept
        return None

    http.cut = cut
    stand.runtime.want(digest, "1.0.0")
    start(stand, http.url)
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end")
    again = [get for get in stand.coordinator.asked_for(Kind.CHUNK) if get.name == cuts[0].name]
    assert min(get.offset for get in again) == kept
    assert all(get.length <= limits.PART_BYTES_MAX for get in stand.coordinator.asked), "the contract of MQTT holds"
    bytes_of = ranges([*http.served, *stand.coordinator.asked], stand.coordinator.things)
    assert len(bytes_of) == len(set(bytes_of)), "no byte came twice"


def test_http_is_taken_again_once_it_works(stand: Stand, publisher: Publisher, http: HttpCoordinator) -> None:
    first = published(stand, publisher, 7, "1.0.0", 10)
    http.fault = broken
    stand.runtime.want(first, "1.0.0")
    start(stand, http.url)
    stand.until(lambda: stand.runtime.offered == [first], "the first one comes over MQTT")
    tries = len(http.asked)
    http.fault = lambda _get: None
    second = published(stand, publisher, 20 * limits.MIB, "1.1.0", 11)
    stand.link.bytes_per_s = limits.MIB
    stand.runtime.want(second, "1.1.0")
    stand.until(lambda: len(http.served) > 4, "the second one goes over to HTTP", 30.0)
    stand.until(lambda: stand.runtime.offered == [first, second], "it is offered to the end")
    assert tries <= 4, "while it failed it was not asked again and again"


def test_a_download_over_http_goes_on_while_the_broker_is_away(
    stand: Stand, publisher: Publisher, http: HttpCoordinator
) -> None:
    digest = published(stand, publisher, 5 * limits.MIB)
    http.open.clear()
    stand.runtime.want(digest, "1.0.0")
    start(stand, http.url)
    stand.connected()
    stand.link.go_away()
    stand.until(lambda: stand.runtime.links and not stand.runtime.links[-1][0], "the broker is away")
    http.open.set()
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end")
    assert not stand.coordinator.asked


def test_http_that_comes_back_while_the_broker_is_away_is_enough(
    stand: Stand, publisher: Publisher, http: HttpCoordinator
) -> None:
    digest = published(stand, publisher, limits.MIB)
    http.open.clear()
    stand.runtime.want(digest, "1.0.0")
    start(stand, http.url)
    stand.connected()
    stand.link.go_away()
    stand.until(lambda: stand.runtime.links and not stand.runtime.links[-1][0], "the broker is away")
    http.fault = broken
    http.open.set()
    stand.until(lambda: "http_fails" in stand.log(100), "and HTTP fails")
    http.fault = lambda _get: None
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end", 40.0)
    assert not stand.coordinator.asked


def maps(stand: Stand) -> str:
    """What the process has mapped."""
    return Path(f"/proc/{stand.process.pid}/maps").read_text()


def test_the_library_is_in_memory_only_where_http_is_used(
    stand: Stand, publisher: Publisher, http: HttpCoordinator
) -> None:
    digest = published(stand, publisher)
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered over MQTT")
    assert "aiohttp" not in maps(stand)
    stand.kill()
    start(stand, http.url)
    stand.until(lambda: "aiohttp" in maps(stand), "it is imported at the first request")
    wait_asked(http, Kind.METADATA)

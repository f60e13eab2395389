"""Parts over HTTP: a device's own token, the same rights as over MQTT, ranges, the log, and so many at once."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from cloud_sync import limits
from cloud_sync.client.api import Coordinator as Client
from edge_agent.contract import limits as contract_limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.transfer import STATUS_HEADER, TOTAL_BYTES_HEADER, Kind, parts_path
from tests.cloud.conftest import NewDevice
from tests.cloud.test_parts import manifest
from tests.cloud.town import Town
from tests.harness.agent import wait_until
from tests.harness.releases import Releases

MIB = contract_limits.MIB
WHOLE = f"offset=0&length={MIB}"


def token(town: Town, device_id: str) -> str:
    """Of this device."""
    with Client(town.url, town.token_file) as client:
        return client.device_token(device_id).view.token


def get(
    town: Town,
    device_id: str,
    kind: str,
    name: str,
    query: str = WHOLE,
    *,
    shows: str | None = None,
) -> tuple[int, bytes]:
    """Ask as this device, or with another token: status and body."""
    given = token(town, device_id) if shows is None else shows
    path = f"{parts_path(device_id, kind, name)}?{query}"
    return town.raw("GET", path, headers={"Authorization": f"Bearer {given}"})


def test_a_device_gets_over_http_what_it_gets_over_mqtt_and_nothing_else(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    device = new_device(town, "http-entitled")
    chunk = manifest(published, "1.2.0").file("model.bin").chunks[0]
    digest = published.all["1.2.0"].digest
    assert get(town, "http-entitled", Kind.CHUNK, chunk)[0] == 403
    assert get(town, "http-entitled", Kind.MANIFEST, digest)[0] == 403
    town.rollout("1.2.0", devices=["http-entitled"])
    device.wait_assignment("1.2.0")
    status, raw = get(town, "http-entitled", Kind.CHUNK, chunk)
    assert (status, len(raw), sha256_hex(raw)) == (200, MIB, chunk), "a whole chunk at once"
    status, raw = get(town, "http-entitled", Kind.MANIFEST, digest)
    assert (status, sha256_hex(raw)) == (200, digest)
    assert get(town, "http-stranger", Kind.CHUNK, chunk)[0] == 403
    assert get(town, "http-stranger", Kind.METADATA, "timestamp.json")[0] == 200
    assert get(town, "http-stranger", Kind.COORDINATOR, "coordinator.json")[0] == 200


def test_only_the_device_itself_is_answered(town: Town) -> None:
    other, operator = token(town, "http-other"), town.token_file.read_text().strip()
    for shown in (other, operator, "", "x", token(town, "http-mine")[:-1], "\xff\xfe"):
        status, raw = get(town, "http-mine", Kind.METADATA, "timestamp.json", shows=shown)
        assert (status, json.loads(raw)["reason"]) == (401, "not_authorized"), shown
    path = parts_path("http-mine", Kind.METADATA, "timestamp.json") + "?offset=0&length=10"
    assert town.raw("GET", path)[0] == 401
    mine = token(town, "http-mine")
    assert town.raw("GET", path, headers={"Authorization": f"Basic {mine}"})[0] == 401
    for shown in (mine, "\xff\xfe"):
        headers = {"Authorization": f"Bearer {shown}"}
        assert town.raw("GET", "/v1/devices", headers=headers)[0] == 401, "it opens nothing else"


@pytest.mark.parametrize(
    ("kind", "name", "query", "status"),
    [
        ("metadata", "../../token", "offset=0&length=10", 400),
        ("metadata", "token", "offset=0&length=10", 400),
        ("chunk", "F" * 64, "offset=0&length=10", 400),
        ("key", "coordinator.key", "offset=0&length=10", 400),
        ("metadata", "timestamp.json", "", 400),
        ("metadata", "timestamp.json", "offset=0", 400),
        ("metadata", "timestamp.json", "offset=-1&length=10", 400),
        ("metadata", "timestamp.json", "offset=0&length=0", 400),
        ("metadata", "timestamp.json", f"offset=0&length={MIB + 1}", 400),
        ("metadata", "timestamp.json", f"offset={'9' * 5000}&length=1", 400),
        ("metadata", "timestamp.json", "offset=0x1&length=1", 400),
        ("metadata", "timestamp.json", "offset=%D9%A1&length=1", 400),
        ("metadata", "timestamp.json", "offset=999999&length=1", 416),
        ("metadata", "99.root.json", "offset=0&length=1", 404),
        ("chunk", "f" * 64, "offset=0&length=1", 403),
    ],
)
def test_what_is_asked_wrongly_is_answered_with_its_status(
    town: Town, kind: str, name: str, query: str, status: int
) -> None:
    assert get(town, "http-asks", kind, quote(name, safe=""), query)[0] == status


def test_a_range_comes_with_the_words_of_the_contract(town: Town, published: Releases) -> None:
    whole = (published.publisher.repository.folder / "metadata" / "timestamp.json").read_bytes()
    path = f"{parts_path('http-range', Kind.METADATA, 'timestamp.json')}?offset={len(whole) - 3}&length=1000"
    headers = {"Authorization": f"Bearer {token(town, 'http-range')}"}
    with urllib.request.urlopen(urllib.request.Request(town.url + path, headers=headers), timeout=10) as answer:
        assert answer.read() == whole[-3:]
        assert (answer.headers[STATUS_HEADER], answer.headers[TOTAL_BYTES_HEADER]) == ("200", str(len(whole)))


def test_what_went_over_http_is_in_the_log_of_served_parts(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    device = new_device(town, "http-logged")
    town.rollout("1.2.0", devices=["http-logged"])
    device.wait_assignment("1.2.0")
    chunk = manifest(published, "1.2.0").file("model.bin").chunks[0]
    before = town.metric('holdfast_parts_served_bytes_total{way="http"}')
    get(town, "http-logged", Kind.CHUNK, chunk, f"offset=0&length={MIB - 5}")
    get(town, "http-logged", Kind.CHUNK, chunk, f"offset={MIB - 5}&length=5")
    assert town.metric('holdfast_parts_served_bytes_total{way="http"}') == before + MIB

    def logged() -> list[tuple[str, int, int]]:
        with sqlite3.connect(f"file:{town.data / 'coordinator.db'}?mode=ro", uri=True) as database:
            query = 'SELECT name, "offset", length FROM served_parts WHERE device_id = ? ORDER BY "offset"'
            return database.execute(query, ("http-logged",)).fetchall()

    found = wait_until(lambda: len(logged()) >= 2 and logged(), "they are written")
    assert found == [(chunk, 0, MIB - 5), (chunk, MIB - 5, 5)]


def test_a_device_that_takes_nothing_holds_up_itself_alone(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    for name in ("http-greedy", "http-modest"):
        device = new_device(town, name)
        town.rollout("1.2.0", devices=[name])
        device.wait_assignment("1.2.0")
    chunk = manifest(published, "1.2.0").file("model.bin").chunks[0]
    with contextlib.ExitStack() as stack:
        for _ in range(limits.PARTS_PER_DEVICE_AT_ONCE):
            stack.enter_context(stuck(town, "http-greedy", Kind.CHUNK, chunk, WHOLE)).recv(1)
        status, _ = get(town, "http-greedy", Kind.CHUNK, chunk)
        assert status == 503
        assert town.metric('holdfast_parts_total{status="dropped",way="http"}') > 0
        assert get(town, "http-modest", Kind.CHUNK, chunk)[0] == 200
    wait_until(lambda: get(town, "http-greedy", Kind.CHUNK, chunk)[0] == 200, "who hung up is not waited for")


def test_a_token_is_told_to_the_operator_alone_before_the_device_was_ever_there(town: Town) -> None:
    status, document = town.ask("GET", "/v1/devices/http-new/token")
    assert status == 200 and document["device_id"] == "http-new"
    assert document["token"] == token(town, "http-new") != token(town, "http-new2")
    assert town.ask("GET", "/v1/devices/http-new")[0] == 404, "to tell it makes no device"
    assert town.raw("GET", "/v1/devices/http-new/token")[0] == 401
    for wrong in ("a b", ".hidden", "x" * 300, "a+"):
        status, document = town.ask("GET", f"/v1/devices/{quote(wrong, safe='')}/token")
        assert (status, document["reason"]) == (400, "malformed"), wrong


def test_a_token_stays_over_a_restart_and_is_another_one_at_another_coordinator(own: Town, town: Town) -> None:
    before = token(own, "kiosk")
    assert before != token(town, "kiosk")
    own.kill()
    own.restart()
    assert token(own, "kiosk") == before


@contextlib.contextmanager
def stuck(town: Town, device_id: str, kind: Kind, name: str, query: str) -> Iterator[socket.socket]:
    """A request whose answer nobody reads; small segments and buffers, so that the kernel does not take it all."""
    host, _, port = town.http.rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        sock.settimeout(20)
        sock.connect((host, int(port)))
        head = f"GET {parts_path(device_id, kind, name)}?{query} HTTP/1.1\r\nHost: {host}\r\n"
        sock.sendall(f"{head}Authorization: Bearer {token(town, device_id)}\r\n\r\n".encode())
        yield sock

"""A coordinator that is not there, or a server that is none: `fleet` says so, in time, and what to do."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from cloud_sync.client.api import Coordinator
from cloud_sync.client.transport import Bounds, read_token
from cloud_sync.operator_cli.main import main as fleet
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.reasons import Reason
from tests.cli.command import document, run
from tests.fleet.strangers import Stranger

QUICK = Bounds(connect_s=5, answer_s=0.5, upload_s=0.5, answer_bytes_max=100_000)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("secret\n")
    return path


def env(url: str, token_file: Path) -> dict[str, str]:
    return {"HOLDFAST_COORDINATOR": url, "HOLDFAST_TOKEN_FILE": str(token_file)}


def refused(url: str, token_file: Path, *arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = document(fleet, *(arguments or ("devices", "list")), code=1, env=env(url, token_file))
    assert told["ok"] is False and told["next_step"]
    return told


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def test_a_coordinator_that_does_not_run_is_told_with_its_address(token_file: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    told = refused(url, token_file)
    assert f"{url} cannot be reached: " in told["message"] and "HOLDFAST_COORDINATOR" in told["next_step"]
    people = run(fleet, "devices", "list", code=1, env=env(url, token_file))
    assert people.stderr.startswith("failed: ") and people.stdout == ""


def test_a_host_without_a_name_is_told(token_file: Path) -> None:
    assert "cannot be reached" in refused("http://no-such-host.invalid:1", token_file)["message"]


@pytest.mark.parametrize(
    ("stranger", "says"),
    [
        ({"body": b"<html>hello</html>"}, "not a JSON document"),
        ({"body": b"[1, 2]"}, "not a JSON document"),
        ({"body": b"[" * 100_000}, "not a JSON document"),
        ({"body": b"\xff\xfe"}, "not a JSON document"),
        ({"body": b"{}"}, "devices"),
        ({"body": b'{"devices": [{"device_id": 7}]}'}, "devices"),
        ({"body": b'{"devices": null}'}, "devices"),
        ({"status": "404 Not Found", "body": b"nothing here"}, "status 404"),
        ({"status": "404 Not Found", "body": b'{"ok": false, "message": 7}'}, "status 404"),
        ({"status": "409 Conflict", "body": b'{"message": "of another kind"}'}, "status 409"),
        ({"status": "204 No Content"}, "status 204"),
        ({"body": gzip.compress(b'{"devices": []}'), "headers": ("Content-Encoding: gzip",)}, "not a JSON document"),
    ],
)
def test_a_server_that_is_no_coordinator_is_told_to_be_none(
    stranger: dict[str, Any], says: str, token_file: Path
) -> None:
    with Stranger(**stranger) as server:
        told = refused(server.url, token_file)
    assert "does not answer as a coordinator does" in told["message"] and says in told["message"]
    assert "HOLDFAST_COORDINATOR" in told["next_step"]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", "cannot be reached"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
        (b"\x00" * 300, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n", "not HTTP"),
    ],
)
def test_what_is_no_http_is_told_in_one_line(raw: bytes, says: str, token_file: Path) -> None:
    with Stranger(raw=raw) as server:
        told = refused(server.url, token_file)
    assert says in told["message"] and "\n" not in told["message"] and len(told["message"]) < 500


def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else(token_file: Path) -> None:
    with Stranger(b'{"devices": []}') as other:
        to = f"Location: {other.url}/v1/devices"
        with Stranger(status="302 Found", headers=(to,)) as server:
            assert "status 302" in refused(server.url, token_file)["message"]
            assert b"Authorization: Bearer secret\r\n" in server.requests[0]
        assert other.requests == []


def test_a_proxy_without_a_coordinator_behind_it_is_a_failure_to_be_tried_again(token_file: Path) -> None:
    with Stranger(b"<html>bad gateway</html>", status="502 Bad Gateway") as server:
        people = run(fleet, "devices", "list", code=1, env=env(server.url, token_file))
    assert people.stderr.startswith("failed: ") and "status 502" in people.stderr


def test_a_server_that_never_answers_is_left_in_time(token_file: Path) -> None:
    with Stranger(silent=True) as server, Coordinator(server.url, token_file, bounds=QUICK) as coordinator:
        with pytest.raises(Unavailable, match=r"did not answer within 0\.5 s"):
            coordinator.devices()
        with pytest.raises(Unavailable, match=r"did not answer within 0\.5 s"):
            coordinator.put_chunk("ab" * 32, bytes(1000))


@pytest.mark.parametrize(
    ("endless", "answer_s", "says"),
    [(b" " * 70_000, 30.0, "more than 100000 bytes"), (b"x", 0.2, r"did not answer within 0\.2 s")],
)
def test_an_endless_answer_is_left_at_its_bound(endless: bytes, answer_s: float, says: str, token_file: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    bounds = Bounds(answer_s=answer_s, answer_bytes_max=100_000 if answer_s > 1 else 1 << 40)
    with (
        Stranger(raw=head, endless=endless) as server,
        Coordinator(server.url, token_file, bounds=bounds) as coordinator,
        pytest.raises((Rejected, Unavailable), match=says),
    ):
        coordinator.devices()


def test_words_of_a_server_cannot_drive_the_terminal_and_unknown_reasons_are_no_error(token_file: Path) -> None:
    said = {"ok": False, "reason": "newer_word", "message": "\x1b[2Jgone [bold]\n", "next_step": "\x07do"}
    with Stranger(json.dumps(said).encode(), status="409 Conflict") as server:
        told = refused(server.url, token_file)
        people = run(fleet, "devices", "list", code=1, env=env(server.url, token_file))
    assert told["reason"] is None and told["message"] == said["message"]
    assert people.stderr.startswith("refused: ") and "[2Jgone [bold]" in people.stderr
    assert "\x1b[2J" not in people.stderr and "\x07" not in people.stderr
    assert len(people.stderr.strip().splitlines()) == 2


def test_the_reason_of_a_coordinator_is_passed_on(token_file: Path) -> None:
    said = {"ok": False, "reason": "planning_stopped", "message": "m", "next_step": "n"}
    with Stranger(json.dumps(said).encode(), status="503 Service Unavailable") as server:
        assert refused(server.url, token_file) == said
        people = run(fleet, "resume", code=1, env=env(server.url, token_file))
    assert people.stderr.startswith("failed (planning_stopped): m")


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", b"a\nb", b"x" * 5000, None])
def test_a_file_without_a_token_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Rejected) as caught:
        read_token(path)
    assert caught.value.reason is Reason.NOT_AUTHORIZED and str(path) in caught.value.message
    assert "HOLDFAST_TOKEN_FILE" in caught.value.next_step


@pytest.mark.parametrize(
    "url",
    ["", "coordinator", "127.0.0.1:8080", "ftp://x", "http://", "http://h:port", "http://h:0", "http://h:99999",
     "http://user:pass@h", "http://h?x=1", "http://h#x", "http://[::1", "file:///etc/passwd"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str, token_file: Path) -> None:
    with pytest.raises(Rejected, match="is not the address of a coordinator"):
        Coordinator(url, token_file)


@pytest.mark.parametrize(
    ("url", "is_plain"),
    [
        ("http://127.0.0.1:8080", False),
        ("http://localhost:1", False),
        ("http://[::1]:1", False),
        ("https://fleet.example", False),
        ("http://fleet.example:8080", True),
        ("http://127.evil.example", True),
    ],
)
def test_a_token_that_travels_unencrypted_is_noticed(url: str, is_plain: bool, token_file: Path) -> None:
    assert Coordinator(url, token_file).is_plain is is_plain


def test_without_address_or_token_it_is_wrong_usage() -> None:
    nothing = {"HOLDFAST_COORDINATOR": "", "HOLDFAST_TOKEN_FILE": "", "HOLDFAST_REPO": ""}
    for arguments in (("devices", "list"), ("resume",), ("rollout", "start", "m", "--to", "1"), ("snapshot", "list")):
        result = run(fleet, *arguments, code=2, env=nothing)
        assert "--coordinator" in result.stderr and result.stdout == ""
    half = {**nothing, "HOLDFAST_COORDINATOR": "http://127.0.0.1:1"}
    for arguments in (("devices", "list"), ("snapshot", "list"), ("snapshot", "show", "a@1")):
        assert "--token-file" in run(fleet, *arguments, code=2, env=half).stderr

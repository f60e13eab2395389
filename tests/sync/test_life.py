"""How the process lives and ends: hostile messages, wrong passwords, brokers and runtimes that go away, memory."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edge_agent.contract import limits, topics
from tests.broker.certificates import Authority
from tests.harness.broker import Broker
from tests.publishing import Publisher
from tests.samples import a_manifest
from tests.sync.runtime import DEVICE
from tests.sync.stand import Stand

SMALL = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}
PSS_BYTES_MAX = 60 << 20  # the goal is 50 MB; what a test allows has room for another machine's libraries


def test_nonsense_on_every_topic_is_passed_over(stand: Stand) -> None:
    stand.start().connected()
    nonsense = (b"", b"\x00\xff", b"{}", b"[" * 10_000, b"x" * (limits.ENVELOPE_BYTES_MAX + 1))
    for payload in nonsense:
        for channel in (topics.ACK, topics.GOT, topics.COORDINATOR):
            stand.coordinator.say_at(channel.topic(DEVICE), payload)
        stand.coordinator.say_at(f"{topics.PREFIX}/d/{DEVICE}/down/unheard", payload)
    stand.coordinator.say(topics.ASSIGNMENT, b"good")
    stand.until(lambda: stand.runtime.assignments == [b"good"], "it still listens")
    assert len(stand.coordinator.heard["hello"]) == 1, "it is the same connection"
    log = stand.log(200)
    assert all(f'"what": "{kind}"' in log for kind in ("unasked", "oversized", "malformed", "foreign_topic"))
    assert log.count("thrown_away") < 10, "a flood of nonsense is no flood of lines"


def test_a_wrong_password_is_told_and_the_right_one_is_taken_without_a_restart(stand: Stand, tmp_path: Path) -> None:
    right = stand.password_file
    stand.password_file = tmp_path / "password"
    stand.password_file.write_text("wrong")
    stand.start()
    said = (False, "the broker refuses user name or password")
    stand.until(lambda: said in stand.runtime.links, "the runtime is told")
    stand.password_file.write_text(right.read_text())
    stand.connected()


def test_a_broker_that_is_away_is_waited_for(stand: Stand) -> None:
    stand.link.go_away()
    stand.start()
    stand.until(lambda: len(stand.runtime.links) > 5, "it tries again and again")
    assert not any(up for up, _ in stand.runtime.links)
    stand.link.come_back()
    stand.connected()


def test_a_broker_that_does_not_answer_is_given_up_and_tried_again(stand: Stand) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        stand.link.address = f"127.0.0.1:{deaf.getsockname()[1]}"
        stand.start()
        first, _ = deaf.accept()
        with first:
            stand.until(lambda: any(not up for up, _ in stand.runtime.links), "it gives up", 25.0)
            first.settimeout(10.0)
            while first.recv(1 << 16):  # until it has hung up: a late answer must not make a second connection
                continue


def test_sigterm_ends_it_at_once_with_and_without_a_broker(stand: Stand) -> None:
    stand.start().connected()
    began_s = time.monotonic()
    stand.kill(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        stand.link.address = f"127.0.0.1:{deaf.getsockname()[1]}"
        stand.start()
        deaf.accept()
        stand.kill(signal.SIGTERM)
    assert stand.process.returncode == 0
    assert time.monotonic() - began_s < 5.0


def test_it_ends_when_its_runtime_is_gone_for_good(stand: Stand) -> None:
    stand.start(orphan_s=0.5).connected()
    stand.runtime.stop()
    assert stand.process.wait(20) == 0
    assert "sync_orphaned" in stand.log()


def test_it_goes_on_when_its_runtime_comes_back_in_time(stand: Stand) -> None:
    stand.start(orphan_s=20.0).connected()
    stand.runtime.stop()
    stand.runtime.start()
    stand.runtime.report()
    stand.until(lambda: stand.coordinator.heard["reports"], "it speaks with the next runtime")
    assert len(stand.coordinator.heard["hello"]) == 1, "the connection to the broker was kept"


def test_it_ends_with_the_process_that_started_it(stand: Stand) -> None:
    starter = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        stand.start("--runtime-pid", str(starter.pid)).connected()
        starter.kill()
        starter.wait()
        assert stand.process.wait(20) == 0
    finally:
        starter.kill()
        starter.wait()


def test_memory_stays_small_with_the_metadata_client_loaded(stand: Stand, publisher: Publisher) -> None:
    publisher.publish_manifest(a_manifest(), SMALL)
    stand.coordinator.serve_repository(publisher.repository.folder)
    stand.start()
    stand.until(lambda: stand.runtime.taken and stand.runtime.taken[0].targets, "a refresh is over")
    assert psutil.Process(stand.process.pid).memory_full_info().pss < PSS_BYTES_MAX


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [(True, True, ""), (False, True, "certificate verify failed"), (True, False, "may not trust")],
)
def test_a_broker_with_certificates_is_spoken_to_with_ones_own(
    stand: Stand, tmp_path: Path, ours: bool, theirs: bool, said: str
) -> None:
    """ours: the device trusts the broker's authority. theirs: the broker trusts the device's."""
    authority, stranger = Authority(tmp_path / "tls"), Authority(tmp_path / "stranger")
    authority.issue("localhost", file="server")
    ca_file = (authority if ours else stranger).folder / "ca.pem"
    certificate, key = (authority if theirs else stranger).issue(DEVICE)
    with Broker(authority.folder, certificates=True) as broker:
        stand.link.address = broker.address
        stand.start("--ca-file", str(ca_file), "--cert-file", str(certificate), "--key-file", str(key))
        stand.until(lambda: stand.runtime.links, "it connects or says why not")
        connected, detail = stand.runtime.links[0]
        assert connected is (ours and theirs)
        assert said in detail.lower()

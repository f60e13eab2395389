"""Starting, stopping and being killed: one coordinator per folder, nothing forgotten, a broker that lost everything."""

from __future__ import annotations

import json
import sqlite3
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_sync.folder import DataFolder, init
from edge_agent.contract import topics
from tests.broker.certificates import Authority
from tests.cloud.conftest import NewDevice
from tests.cloud.town import Town
from tests.harness.agent import wait_until
from tests.harness.broker import Broker
from tests.harness.coordinator import Coordinator, forked_command
from tests.harness.releases import Releases


@dataclass(frozen=True)
class Done:
    """A command that has ended. said: on stdout and stderr."""

    code: int | None
    said: str


def cloud_sync(*arguments: object) -> Done:
    """Run the command, whatever becomes of it, from a server that has imported it already."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        process = forked_command([*map(str, arguments)], output)
        try:
            return Done(process.wait(60.0), output.read_text())
        finally:
            process.kill()


def test_init_makes_the_folder_once_and_never_overwrites(tmp_path: Path, published: Releases) -> None:
    data = tmp_path / "data"
    made = cloud_sync("init", "--data", data, "--root", published.root_file)
    assert made.code == 0, made.said
    public_key = (data / "coordinator.pub").read_text()
    assert made.said.startswith(public_key)
    assert (data / "1.root.json").read_bytes() == published.root_file.read_bytes()
    for name in ("coordinator.key", "token"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600
    again = cloud_sync("init", "--data", data, "--root", published.root_file)
    assert again.code == 1
    assert "never overwritten" in again.said
    assert (data / "coordinator.pub").read_text() == public_key
    key = cloud_sync("init", "--data", tmp_path / "other", "--root", published.publisher.keys / "root.pem")
    assert (key.code, "no root file" in key.said, (tmp_path / "other").exists()) == (1, True, False)
    missing = cloud_sync("init", "--data", tmp_path / "other", "--root", tmp_path / "none.json")
    assert (missing.code, "--root" in missing.said) == (1, True)


def test_serve_without_a_folder_or_with_a_wrong_address_says_what_to_do(tmp_path: Path) -> None:
    done = cloud_sync("serve", "--data", tmp_path / "none", "--broker", "localhost:1883")
    assert (done.code, "cloud-sync init" in done.said) == (1, True)
    done = cloud_sync("serve", "--data", tmp_path, "--broker", "localhost")
    assert (done.code, "HOST:PORT" in done.said) == (1, True)


def test_password_and_token_do_not_travel_in_the_clear_beyond_loopback_unless_on_purpose(idle: Town) -> None:
    for broker, http in (("broker.example:1883", "127.0.0.1:0"), (idle.broker.address, "0.0.0.0:0")):
        done = cloud_sync("serve", "--data", idle.data, "--broker", broker, "--http", http)
        assert (done.code, "--insecure" in done.said) == (1, True)


def test_a_database_is_made_from_nothing_and_one_of_a_newer_version_is_refused(idle: Town) -> None:
    done = cloud_sync("migrate", "--data", idle.data)
    assert (done.code, done.said) == (0, "0002\n")
    assert cloud_sync("migrate", "--data", idle.data).said == "0002\n"
    with sqlite3.connect(idle.data / "coordinator.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    for command in (["migrate"], ["serve", "--broker", idle.broker.address, "--http", "127.0.0.1:0"]):
        done = cloud_sync(command[0], "--data", idle.data, *command[1:])
        assert done.code == 1
        assert "newer version" in done.said
        assert "restore a backup" in done.said


def test_a_second_coordinator_on_the_same_folder_is_refused_and_the_first_goes_on(own: Town) -> None:
    second = cloud_sync("serve", "--data", own.data, "--broker", own.broker.address, "--http", "127.0.0.1:0")
    assert second.code == 1
    assert "another coordinator" in second.said
    assert json.loads((own.data / "endpoint.json").read_text()) == {"url": own.url, "pid": own.pid}
    assert own.ask("GET", "/v1/devices") == (200, {"devices": []})


def test_a_graceful_stop_leaves_a_whole_database_and_no_endpoint(own: Town, new_device: NewDevice) -> None:
    device = new_device(own, "d1")
    own.rollout("1.0.0")
    device.wait_assignment("1.0.0")
    own.stop()
    assert own.exit_code == 0, own.log_tail()
    assert not (own.data / "endpoint.json").exists()
    assert not (own.data / "coordinator.db-wal").exists()
    log = own.log_file.read_text()
    assert "Traceback" not in log, own.log_tail(60)
    assert '"stopped"' in log
    own.restart()
    assert own.device("d1")["models"]["tiny"]["assigned"]["version"] == "1.0.0"


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_rollouts_devices_and_assignments_are_there_after_a_restart(
    own: Town, new_device: NewDevice, published: Releases, how: str
) -> None:
    device = new_device(own, "d1")
    made = own.rollout("1.0.0", "one")
    taken = device.wait_assignment("1.0.0")
    getattr(own, how)()
    own.restart()
    device.next(topics.COORDINATOR)
    assert device.next_assignment() == taken
    assert own.rollout_now(made["id"])["devices"] == {"d1": "assigned"}, "it counts as there until it falls silent"
    shown = own.ask("GET", "/v1/snapshots")[1]["snapshots"]
    assert {(one["name"], one["version"]) for one in shown} >= {("tiny", "1.0.0"), ("tiny", "1.1.0")}
    assert {one["digest"] for one in shown} >= {published.all["1.0.0"].digest}


def test_a_broker_that_lost_everything_has_the_retained_assignments_again(own: Town, new_device: NewDevice) -> None:
    device = new_device(own, "d1")
    own.rollout("1.0.0")
    taken = device.wait_assignment("1.0.0")
    device.disconnect()
    own.broker.kill()
    wait_until(lambda: not (own.health_or_none() or {})["broker"]["connected"], "it notices")
    assert (own.health_or_none() or {})["status"] == "degraded"
    own.broker.start()
    own.wait_connected()
    device.connect()  # and says nothing: what comes is what the broker keeps
    assert device.next_assignment() == taken


def test_a_rollout_while_the_broker_is_away_is_committed_and_published_once_it_is_back(
    own: Town, new_device: NewDevice
) -> None:
    device = new_device(own, "d1")
    device.disconnect()
    own.broker.kill()
    wait_until(lambda: not (own.health_or_none() or {})["broker"]["connected"], "it notices")
    made = own.rollout("1.0.0")
    assert made["state"] == "running"
    own.broker.start()
    own.wait_connected()
    device.connect()
    device.wait_assignment("1.0.0")


def test_it_reaches_a_broker_with_tls_by_its_certificate_and_none_that_its_authority_does_not_know(
    tmp_path: Path, published: Releases
) -> None:
    authority = Authority(tmp_path / "broker")
    authority.issue("localhost", file="server")
    certificate, key = authority.issue("coordinator")
    password_file = tmp_path / "password"
    password_file.write_text("unused\n")
    stranger = Authority(tmp_path / "stranger").folder / "ca.pem"

    def of(ca_file: Path, broker: Broker) -> Coordinator:
        made = Coordinator(
            tmp_path / ca_file.parent.name,
            published.root_file,
            address=broker.address,
            password_file=password_file,
            forked=True,
            options=["--ca-file", str(ca_file), "--cert-file", str(certificate), "--key-file", str(key)],
        )
        init(DataFolder(made.data), published.root_file)
        return made

    with Broker(authority.folder, certificates=True) as broker:
        with of(authority.folder / "ca.pem", broker) as good:
            good.start().wait_connected()
        with of(stranger, broker) as bad:
            bad.start()
            wait_until(lambda: "broker_away" in bad.log_file.read_text(), "it tells that it cannot")
            assert (bad.health_or_none() or {})["broker"]["connected"] is False
            assert "certificate verify failed" in bad.log_file.read_text()

"""`edge-agent doctor`: each thing that a start would stumble over is found before, named, and has a next step."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.cli import main as edge_agent
from edge_agent.config import load_config
from tests.cli.command import document, run
from tests.harness.damage import flip_parameters
from tests.harness.releases import Releases


class Device:
    """agent.toml and a factory snapshot in a folder; nothing runs."""

    def __init__(self, folder: Path, releases: Releases) -> None:
        self.folder = folder
        self.config = folder / "agent.toml"
        self.factory = folder / "tiny.factory"
        self.write()
        run(edge_agent, "factory", releases.all["0.9.0"].bundle, "--out", self.factory, "--config", self.config)

    def write(self, **changes: str) -> None:
        """agent.toml, with other values for some keys."""
        root = self.folder / "root.json"
        keys = {"state_dir": "state", "trusted_root": str(root), "model": "tiny", "python": sys.executable,
                "engine": "numpy", "http": "127.0.0.1:0", **changes}  # fmt: skip
        self.config.write_text(
            'state_dir = "{state_dir}"\ntrusted_root = "{trusted_root}"\ndevice_type = "x86_64"\n'
            '[serving]\nhttp = "{http}"\n'
            '[models.{model}]\nfactory = "tiny.factory"\n[engines.{engine}]\npython = "{python}"\n'.format(**keys)
        )

    def checks(self, *, code: int) -> dict[str, dict[str, str]]:
        """The checks that failed, by name (code 1), or all (code 0)."""
        told = document(edge_agent, "doctor", "--config", self.config, code=code)
        assert told["ok"] is (code == 0)
        return {check["name"]: check for check in told["checks"] if code == 0 or not check["passed"]}


@pytest.fixture
def device(tmp_path: Path, releases: Releases) -> Device:
    (tmp_path / "root.json").write_bytes(releases.root_file.read_bytes())
    return Device(tmp_path, releases)


def test_a_broker_that_is_away_is_told_and_is_no_fault(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        device.config.write_text(device.config.read_text() + f'[sync]\nbroker = "{address}"\n')
        assert f"{address} is there" in device.checks(code=0)["broker"]["detail"]
    assert "not reached now" in device.checks(code=0)["broker"]["detail"]


def test_a_password_file_that_is_not_there_is_found(device: Device) -> None:
    device.config.write_text(device.config.read_text() + '[sync]\nbroker = "127.0.0.1:1"\npassword_file = "none"\n')
    assert "password_file" in device.checks(code=1)["broker"]["detail"]


def test_a_device_that_is_fine(device: Device) -> None:
    checks = device.checks(code=0)
    assert set(checks) == {"state folder", "pinned root", "address", "engine numpy", "factory snapshot of tiny"}
    assert "tiny@0.9.0" in checks["factory snapshot of tiny"]["detail"]
    assert all(check["next_step"] == "" for check in checks.values())
    assert not (device.folder / "state").exists(), "it changes nothing"
    told = run(edge_agent, "doctor", "--config", device.config)
    assert told.stdout.count("ok   ") == 5 and told.stderr == ""


@pytest.mark.parametrize(
    ("changes", "name", "word"),
    [
        ({"state_dir": "/proc/holdfast"}, "state folder", "/proc"),
        ({"state_dir": "root.json"}, "state folder", "no folder"),
        ({"trusted_root": "absent.json"}, "pinned root", "absent.json"),
        ({"python": "./no-such-python"}, "engine numpy", "no-such-python"),
        ({"python": "no-such-python"}, "engine numpy", "no-such-python"),
        ({"engine": "abacus"}, "engine abacus", "no such engine"),
        ({"model": "nose"}, "factory snapshot of nose", "another model"),
    ],
)
def test_what_is_wrong_has_a_name_and_a_next_step(
    device: Device, changes: dict[str, str], name: str, word: str
) -> None:
    device.write(**changes)
    failed = device.checks(code=1)[name]
    assert word in failed["detail"] and failed["next_step"]
    told = run(edge_agent, "doctor", "--config", device.config, code=1)
    assert f"BAD  {name}" in told.stdout and "-> " in told.stderr


def test_an_engine_that_its_interpreter_does_not_have(device: Device, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    device.write(python="bare/bin/python")
    assert load_config(device.config).engines["numpy"].python == str(tmp_path / "bare" / "bin" / "python")
    assert "No module named 'numpy'" in device.checks(code=1)["engine numpy"]["detail"]


def test_a_factory_snapshot_that_would_not_serve(device: Device, releases: Releases, tmp_path: Path) -> None:
    name = "factory snapshot of tiny"
    stranger = Releases(tmp_path / "stranger")
    device.write(trusted_root=str(stranger.root_file))
    assert "not signed" in device.checks(code=1)[name]["detail"], "another publisher's root is pinned"
    device.write()
    device.factory.chmod(0o644)
    flip_parameters(device.factory, releases.publisher.repository.folder, releases.all["0.9.0"].bundle)
    assert "damaged" in device.checks(code=1)[name]["detail"]
    device.factory.write_bytes(b"")
    assert device.checks(code=1)[name]["next_step"].startswith("Make it again")
    device.factory.unlink()
    assert device.checks(code=1)[name]


def test_a_factory_file_is_written_whole_or_refused(device: Device, releases: Releases, tmp_path: Path) -> None:
    bundle, config = releases.all["0.9.0"].bundle, device.config
    written = device.factory.read_bytes()
    arguments = ("factory", bundle, "--config", config, "--out")
    assert "exists already" in run(edge_agent, *arguments, device.factory, code=1).stderr
    assert device.factory.read_bytes() == written and device.factory.stat().st_mode & 0o222 == 0
    assert "no folder" in run(edge_agent, *arguments, tmp_path / "absent" / "f", code=1).stderr
    other = document(edge_agent, *arguments, tmp_path / "again")
    assert other["ok"] is True and other["snapshot"] == "tiny@0.9.0"
    device.write(model="nose")
    refused = document(edge_agent, *arguments, tmp_path / "third", code=1)
    assert refused["reason"] == "wrong_slot" and not (tmp_path / "third").exists()


def test_a_port_that_is_taken(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http = f"127.0.0.1:{taken.getsockname()[1]}"
        device.write(http=http)
        check = device.checks(code=1)["address"]
    assert http in check["detail"] and "[serving] http" in check["next_step"]

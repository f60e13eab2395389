"""A full, a read-only and a hanging disk under a device that serves: updates are declined by name, serving goes on.

Damaged bytes are tested in test_damaged_state.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.limits import MIB
from tests.faults.checks import check_answers, wait_recovered
from tests.harness.agent import Agent, wait_until
from tests.harness.fixtures import NewAgent
from tests.harness.releases import Releases

DISK_BYTES = 24 * MIB


class Disk:
    """An ext4 file system of its own below a folder; ended by `end`, whatever became of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._image = folder.with_suffix(".img")
        folder.mkdir()
        with self._image.open("wb") as image:
            image.truncate(DISK_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(folder))
        self._device = _run("findmnt", "-n", "-o", "SOURCE", str(folder)).strip()

    def fill(self) -> None:
        """Leave no room at all."""
        filler = os.open(self.folder / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            for block in (1 << 16, 4096, 1):
                _write_until_full(filler, bytes(block))
            os.fsync(filler)
        finally:
            os.close(filler)

    def free(self) -> None:
        """Give the room back."""
        (self.folder / "filler").unlink()

    def fail(self) -> None:
        """The kernel finds an error in the file system: from now on nothing can be written, open files included."""
        Path(f"/sys/fs/ext4/{Path(self._device).name}/trigger_fs_error").write_text("1")

    def mend(self) -> None:
        """What an operator does about it, without unmounting."""
        _run("mount", "-o", "remount,rw", str(self.folder))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The disk hangs: whoever writes waits, and cannot even be killed. Reading goes on."""
        _run("fsfreeze", "-f", str(self.folder))
        try:
            yield
        finally:
            _run("fsfreeze", "-u", str(self.folder))

    def end(self) -> None:
        """Unmount, now or when the last file is closed."""
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


def _write_until_full(descriptor: int, block: bytes) -> None:
    try:
        while os.write(descriptor, block):  # ends when the disk is full
            continue
    except OSError as error:
        assert error.errno == errno.ENOSPC


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def disk(short_folder: Path) -> Iterator[Disk]:
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("this machine has no loop devices, so no file system of the test's own can be mounted")
    made = Disk(short_folder / "m")
    yield made
    made.end()


@pytest.fixture
def agent(disk: Disk, new_agent: NewAgent, releases: Releases) -> Agent:
    """A device on that disk which serves 1.1.0, confirmed."""
    agent = new_agent(limits={"orphan_s": 30.0})
    text = agent.config_file.read_text()
    agent.state_dir = disk.folder / "state"
    agent.config_file.write_text(text.replace(str(agent.folder / "state"), str(agent.state_dir)))
    agent.start_and_wait()
    for version in ("1.0.0", "1.1.0"):
        done = agent.cli("import", str(releases.all[version].bundle))
        assert done.returncode == 0, done.stderr
        agent.wait_model("tiny", lambda m: not m["candidate"], "confirmed")
    return agent


def declined(agent: Agent, bundle: Path, reason: str) -> None:
    """An import ends with exit code 1, the reason and a next step."""
    done = agent.cli("import", str(bundle), "--json")
    assert done.returncode == 1, done.stdout
    assert f'"reason": "{reason}"' in done.stdout, done.stdout + done.stderr
    assert "->" in done.stderr


def falls_back_and_returns(agent: Agent, releases: Releases, story: str) -> None:
    """Kill every worker, then runtime and workers: the device answers again each time, by itself."""
    agent.kill_workers(releases.all["1.1.0"].digest)
    assert check_answers(agent, releases, (story, "workers killed")) == "1.1.0"
    wait_until(agent.workers, "workers again")
    pids = [worker["pid"] for worker in agent.workers()]
    agent.kill_runtime()
    for pid in pids:
        os.kill(pid, 9)
    agent.start()
    wait_recovered(agent, (story, "runtime and workers killed"))
    assert check_answers(agent, releases, story) == "1.1.0"


def test_a_full_disk_declines_updates_and_nothing_else(disk: Disk, agent: Agent, releases: Releases) -> None:
    large = releases.publish("4.0.0", proven=False, hidden=60_000)
    disk.fill()
    declined(agent, large.bundle, "disk_full")
    assert check_answers(agent, releases, "full disk") == "1.1.0"
    assert agent.model("tiny")["quarantined"] == [], "a full disk is not the snapshot's fault"
    falls_back_and_returns(agent, releases, "full disk")
    disk.free()
    done = agent.cli("import", str(large.bundle))
    assert done.returncode == 0, done.stderr
    assert check_answers(agent, releases, "room again") == "4.0.0"
    assert agent.status()["storage"] is None


def damage_weights(agent: Agent, releases: Releases) -> None:
    """One bit of 1.1.0 on the disk is another one now."""
    database = agent.state_dir / "models.db"
    content = bytearray(database.read_bytes())
    weights = (releases.all["1.1.0"].folder / "model.bin").read_bytes()
    at = content.index(weights[:64])
    with database.open("r+b") as target:
        target.seek(at + 8)
        target.write(bytes([content[at + 8] ^ 1]))


def test_damage_on_a_full_disk_is_still_a_fallback(disk: Disk, agent: Agent, releases: Releases) -> None:
    disk.fill()
    damage_weights(agent, releases)
    agent.kill_workers(releases.all["1.1.0"].digest)
    assert check_answers(agent, releases, "damage on a full disk") == "1.0.0"


def test_a_read_only_disk_serves_on_and_says_so(disk: Disk, agent: Agent, releases: Releases) -> None:
    disk.fail()
    assert check_answers(agent, releases, "read-only disk") == "1.1.0"
    declined(agent, releases.publish("4.1.0", proven=False).bundle, "read_only")
    assert agent.status()["storage"] == "read_only"
    falls_back_and_returns(agent, releases, "read-only disk")
    done = agent.cli("rollback", "tiny")
    assert done.returncode == 0, "an operator's hand works in the worst hour: " + done.stderr
    assert "could not be saved (read_only)" in done.stderr
    assert check_answers(agent, releases, "rolled back") == "1.0.0"


def test_a_disk_that_hangs_is_no_outage(disk: Disk, agent: Agent, releases: Releases) -> None:
    """A cold fallback and a rollback while no write comes back; all of it is on the disk once it answers."""
    damage_weights(agent, releases)
    with disk.frozen():
        agent.kill_workers(releases.all["1.1.0"].digest)
        assert check_answers(agent, releases, "cold fallback") == "1.0.0"
        assert agent.status()["storage"] == "disk_hangs"
        declined(agent, releases.publish("4.2.0", proven=False).bundle, "disk_hangs")
        agent.kill_workers(releases.all["1.0.0"].digest)
        assert check_answers(agent, releases, "workers killed") == "1.0.0"
        done = agent.cli("rollback", "tiny", "--to", "0.9.0")
        assert done.returncode == 0, "an operator's hand works in the worst hour: " + done.stderr
        assert "could not be saved (disk_hangs)" in done.stderr
        assert check_answers(agent, releases, "rolled back") == "0.9.0"
    wait_until(lambda: agent.status()["storage"] is None, "everything is saved")
    agent.kill_runtime()
    agent.start()
    wait_recovered(agent, "another runtime")
    assert check_answers(agent, releases, "another runtime") == "0.9.0"
    served = [line["version"] for line in agent.cli_json("history")["lines"] if line["kind"] == "serving"]
    assert [version for version in served if version][-2:] == ["1.0.0", "0.9.0"]


def test_a_boot_on_a_read_only_disk_knows_the_newest_transitions(disk: Disk, agent: Agent, releases: Releases) -> None:
    assert agent.cli("rollback", "tiny").returncode == 0
    pids = [worker["pid"] for worker in agent.workers()]
    agent.kill_runtime()  # its last transitions are in the write-ahead log alone
    disk.fail()
    for pid in pids:
        os.kill(pid, 9)
    agent.start()
    wait_recovered(agent, "read-only disk")
    assert check_answers(agent, releases, "read-only disk") == "1.0.0", "the operator's choice outlives it"
    kinds = [line["kind"] for line in agent.cli_json("history")["lines"]]
    assert "serving" in kinds

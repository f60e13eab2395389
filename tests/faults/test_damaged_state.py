"""Random damage in the state folder, the device down or running: no wrong answer, and no hand needed while the factory
snapshot is intact.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.checks import check_answers, wait_recovered
from tests.faults.conftest import cases
from tests.harness.agent import Agent
from tests.harness.fixtures import NewAgent, agents_of
from tests.harness.releases import DigitsReleases, Releases

DAMAGES = cases(200, 10_000)
DAMAGES_WITH_PADDLE = cases(10, 200)
LANES = 2  # two devices side by side


def flip_bits(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 3, 50))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def zero_block(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    size = chance.choice((1, 100, 4096, 65536))
    content[at : at + size] = bytes(min(size, len(content) - at))
    path.write_bytes(content)


def random_block(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    size = min(chance.choice((16, 4096)), len(content) - at)
    content[at : at + size] = chance.randbytes(size)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def empty(path: Path, chance: random.Random) -> None:
    os.truncate(path, 0)


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def become_a_folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def swap_with_the_other(path: Path, chance: random.Random) -> None:
    other = path.with_name("agent.db" if path.name == "models.db" else "models.db")
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


KINDS = (flip_bits, flip_bits, zero_block, random_block, truncate, empty, remove, become_a_folder, swap_with_the_other)


class Lane:
    """One device that is damaged again and again; its good state is put back in between."""

    def __init__(self, agent: Agent, releases: Releases) -> None:
        self.agent = agent
        self.releases = releases
        self.good = agent.folder / "good"
        agent.start_and_wait()
        for version in ("1.0.0", "1.1.0"):
            done = agent.cli("import", str(releases.all[version].bundle))
            assert done.returncode == 0, done.stderr
            agent.wait_model(releases.model, lambda m: not m["candidate"], "confirmed")
        agent.kill_runtime()
        self._save()
        agent.start_and_wait()

    def _save(self) -> None:
        self.good.mkdir()
        for path in self._databases():
            shutil.copy(path, self.good / path.name)

    def _databases(self) -> list[Path]:
        return [p for p in self.agent.state_dir.iterdir() if ".db" in p.name]

    def _restore(self) -> None:
        for path in self._databases():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path in self.good.iterdir():
            shutil.copy(path, self.agent.state_dir / path.name)

    def case(self, seed: int) -> str:
        """One damage; the version that answers afterwards."""
        chance = random.Random(seed)
        agent = self.agent
        workers = [worker["pid"] for worker in agent.status()["processes"]["workers"] if worker["pid"]]
        agent.kill_runtime()
        self._restore()
        victims = [p for p in self._databases() if p.stat().st_size]
        path, kind = chance.choice(victims), chance.choice(KINDS)
        if path.suffix != ".db" and kind is swap_with_the_other:
            kind = empty
        kind(path, chance)
        cold = chance.random() < 0.8
        for pid in workers if cold else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        story = (seed, kind.__name__, path.name, "cold" if cold else "workers alive")
        agent.start()
        wait_recovered(agent, story)
        return check_answers(agent, self.releases, story)


def campaign(make: NewAgent, releases: Releases, damages: int) -> Counter[str]:
    """Damage devices side by side; how often which version answered afterwards. Every case has been checked."""
    lanes = [Lane(make(f"d{number}", limits={"orphan_s": 30.0}), releases) for number in range(LANES)]

    def play(number: int) -> list[str]:
        return [lanes[number].case(seed) for seed in range(number, damages, LANES)]

    with ThreadPoolExecutor(LANES) as pool:
        answered = Counter(version for versions in pool.map(play, range(LANES)) for version in versions)
    print(f"{damages} damages: 0 wrong answers, 0 hands; answered by {dict(answered)}")
    assert sum(answered.values()) == damages
    return answered


def test_random_damage_in_the_state_folder(new_agent: NewAgent, releases: Releases) -> None:
    answered = campaign(new_agent, releases, DAMAGES)
    assert answered["1.1.0"], "much damage leaves the active snapshot whole"
    assert len(answered) > 1, "some damage reached it"


def test_random_damage_in_the_state_folder_with_paddle(short_folder: Path) -> None:
    releases = DigitsReleases(short_folder / "releases")
    for version in ("0.9.0", "1.0.0", "1.1.0"):
        releases.publish(version)
    with agents_of(releases, short_folder) as make:
        campaign(make, releases, DAMAGES_WITH_PADDLE)

"""The wheel: built from the sources alone, it holds the product and nothing else, and a device runs from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.agent import ROOT, wait_until
from tests.harness.releases import Releases
from tests.tiny_model import write_tiny_model

SOURCES = ("edge_agent", "cloud_sync", "tests", "models", "docs", "packaging", "requirements")
COMMANDS = ("edge-agent", "cloud-sync", "fleet")


@dataclass
class Installed:
    """The wheel, unpacked by pip into a folder of its own; only libraries come from this environment."""

    wheel: Path
    folder: Path

    def command(self, name: str, *arguments: object) -> list[str]:
        """The installed command's line."""
        return [str(self.folder / "bin" / name), *map(str, arguments)]

    def run(self, name: str, *arguments: object) -> str:
        """stdout of a command that has to succeed, run far from the sources."""
        done = subprocess.run(
            self.command(name, *arguments), capture_output=True, text=True, timeout=120, check=False,
            cwd=self.folder, env=self.environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def environment(self) -> dict[str, str]:
        """The folder comes before everything else that could be imported."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`python -m build` in a copy of the sources, without network; then pip, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    _quietly("build", "--wheel", "--no-isolation", "--outdir", folder / "dist", folder / "source")
    (wheel,) = (folder / "dist").iterdir()
    quiet = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    _quietly("pip", "install", *quiet, "--target", folder / "installed", wheel)
    return Installed(wheel, folder / "installed")


def _quietly(module: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_the_product_and_nothing_else(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"edge_agent", "cloud_sync", "holdfast-0.1.0.dist-info"}
    modules = {
        str(path.relative_to(ROOT)) for room in ("edge_agent", "cloud_sync") for path in (ROOT / room).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_installed_and_tells_what_it_does(installed: Installed, name: str) -> None:
    told = installed.run(name, "--help")
    assert told.startswith(f"Usage: {name}")
    assert "0.1.0" in installed.run(name, "--version")


def test_commands_run_from_the_installed_files(installed: Installed) -> None:
    code = "import edge_agent, cloud_sync; print(edge_agent.__file__, cloud_sync.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=installed.folder,
        env=installed.environment(),
    )  # fmt: skip
    assert done.stdout.count(str(installed.folder)) == 2


@pytest.fixture
def running(installed: Installed, releases: Releases, short_folder: Path) -> Iterator[Path]:
    """agent.toml of an agent that runs from the wheel, with a factory snapshot."""
    config = short_folder / "agent.toml"
    config.write_text(
        f'state_dir = "state"\ntrusted_root = "{releases.root_file}"\ndevice_type = "x86_64"\n'
        '[serving]\nhttp = "127.0.0.1:0"\n[models.tiny]\nfactory = "tiny.factory"\n[limits]\norphan_s = 5.0\n'
    )
    factory = short_folder / "tiny.factory"
    installed.run("edge-agent", "factory", releases.all["0.9.0"].bundle, "--out", factory, "--config", config)
    with (short_folder / "log").open("wb") as log:
        agent = subprocess.Popen(
            installed.command("edge-agent", "run", "--config", config), stdout=log, stderr=log, cwd=installed.folder,
            env=installed.environment(),
        )  # fmt: skip
    try:
        yield config
    finally:
        agent.terminate()
        try:
            agent.wait(20)
        finally:
            agent.kill()


def test_a_device_runs_from_the_wheel(installed: Installed, running: Path, releases: Releases) -> None:
    def serving() -> bool:
        command = installed.command("edge-agent", "status", "--json", "--config", running)
        done = subprocess.run(command, capture_output=True, text=True, env=installed.environment(), check=False)
        return done.returncode == 0 and json.loads(done.stdout)["models"]["tiny"]["serving"]

    wait_until(serving, lambda: f"it serves: {(running.parent / 'log').read_text()}")
    said = installed.run("edge-agent", "import", releases.all["1.0.0"].bundle, "--config", running)
    assert "is tried beside 0.9.0" in said, "agent.toml says nothing of a policy"


def test_a_publisher_works_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    keys, repository = ("--keys", tmp_path / "keys"), ("--repo", tmp_path / "repository")
    model = write_tiny_model(tmp_path / "model")
    installed.run("fleet", "keys", "init", *keys)
    assert json.loads(installed.run("fleet", "snapshot", "pack", model, *keys, *repository, "--json"))["proofs"]
    installed.run("fleet", "bundle", "tiny@1.0.0", *repository, "--out", tmp_path / "tiny.bundle")

"""`edge-agent doctor`: what can be checked before the agent runs. It changes nothing and serves nothing."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import Config
from edge_agent.contract.errors import HoldfastError
from edge_agent.contract.reasons import Reason
from edge_agent.runtime.library import read_pinned_root
from edge_agent.store.models_db import ModelsDb
from edge_agent.trust.chain import check_pinned_root

IMPORT_S = 60.0
ENGINE_MODULES = {"paddle": "paddle", "numpy": "numpy"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str
    next_step: str = ""


def examine(config: Config) -> list[Check]:
    """All checks, in the order in which a start would stumble over them."""
    checks = [_state_dir(config), _root(config)]
    checks += [_engine(name, settings.python) for name, settings in config.engines.items()]
    checks += [_factory(name, Path(m.factory)) for name, m in config.models.items() if m.factory]
    return checks


def _state_dir(config: Config) -> Check:
    folder = Path(config.state_dir)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return Check(
        "state folder",
        os.access(existing, os.W_OK),
        str(folder),
        "Make it writable for the agent's user, or set another state_dir in agent.toml",
    )


def _root(config: Config) -> Check:
    try:
        version = check_pinned_root(read_pinned_root(Path(config.trusted_root)))
    except HoldfastError as error:
        return Check("pinned root", False, error.message, error.next_step)
    return Check("pinned root", True, f"{config.trusted_root}, version {version}")


def _engine(name: str, python: str) -> Check:
    module = ENGINE_MODULES.get(name)
    if module is None:
        return Check(f"engine {name}", False, "no such engine", f"There are: {', '.join(ENGINE_MODULES)}")
    code = f"import {module}; print({module}.__version__)"
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=IMPORT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(f"engine {name}", False, f"{python}: {error}", Reason.ENGINE_MISSING.next_step)
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Check(f"engine {name}", False, f"{python}: {last_line}", Reason.ENGINE_MISSING.next_step)
    return Check(f"engine {name}", True, f"{module} {done.stdout.strip().splitlines()[-1]} in {python}")


def _factory(model: str, path: Path) -> Check:
    try:
        models = ModelsDb(path, immutable=True)
        count = len(models.snapshots())
        models.close()
    except HoldfastError as error:
        return Check(f"factory snapshot of {model}", False, error.message, "Make it: edge-agent factory")
    return Check(
        f"factory snapshot of {model}", count == 1, f"{path}, {count} snapshots", "Make it: edge-agent factory"
    )

"""`edge-agent doctor`: what can be checked before the agent runs. It changes nothing and serves nothing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edge_agent.client import AdminClient
from edge_agent.config import Config
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected
from edge_agent.contract.evidence import decode_evidence
from edge_agent.contract.reasons import Reason
from edge_agent.folders import is_writable
from edge_agent.runtime.library import read_pinned_root
from edge_agent.store.models_db import ModelsDb
from edge_agent.trust.chain import check_pinned_root, verify_admitted

IMPORT_S = 60.0
BROKER_S = 5.0
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
    checks = [_state_dir(config), _root(config), _address(config)]
    checks += [_engine(name, settings.python) for name, settings in config.engines.items()]
    root_file = Path(config.trusted_root)
    checks += [_factory(name, Path(m.factory), root_file) for name, m in config.models.items() if m.factory]
    return checks + ([_line(config)] if config.sync.broker is not None else [])


def _state_dir(config: Config) -> Check:
    folder = Path(config.state_dir)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if existing.is_dir() and is_writable(existing):
        return Check("state folder", True, str(folder))
    return Check(
        "state folder",
        False,
        f"{folder}: {existing} is no folder that this user may write to",
        "Make it writable for the agent's user, or set another state_dir in agent.toml",
    )


def _root(config: Config) -> Check:
    try:
        version = check_pinned_root(read_pinned_root(Path(config.trusted_root)))
    except HoldfastError as error:
        return Check("pinned root", False, error.message, error.next_step)
    return Check("pinned root", True, f"{config.trusted_root}, version {version}")


def _address(config: Config) -> Check:
    """The port is free, or this agent has it already."""
    name, (host, port) = "address", config.listen_address()
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return Check(name, True, f"{config.serving.http} is free")
    except OSError as error:
        with contextlib.suppress(HoldfastError), AdminClient(config):
            return Check(name, True, f"{config.serving.http}: the agent runs")
        return Check(name, False, f"{config.serving.http}: {error.strerror}",
                     "End what listens there, or set another [serving] http in agent.toml")  # fmt: skip


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


def _factory(model: str, path: Path, root_file: Path) -> Check:
    """What a start needs: the file holds one snapshot of this model, whole, and it leads from the pinned root."""
    name = f"factory snapshot of {model}"
    try:
        label = _verified_label(path, read_pinned_root(root_file), model)
    except HoldfastError as error:
        return Check(name, False, f"{path}: {error.message}", "Make it again: edge-agent factory BUNDLE --out FILE")
    return Check(name, True, f"{path}, {label}")


def _line(config: Config) -> Check:
    """The files of [sync] can be read. A broker that is away now is told, and no fault: the device serves without."""
    sync, (host, port) = config.sync, config.sync.broker_address()
    for key in ("password_file", "ca_file", "cert_file", "key_file"):
        path = getattr(sync, key)
        try:
            if path is not None:
                Path(path).read_bytes()
        except OSError as error:
            return Check(
                "broker", False, f"{key} {path}: {error.strerror}", f"Set another {key} in [sync] of agent.toml"
            )
    if sync.username not in (None, config.device_id):
        said = f"username {sync.username} is not the device_id, {config.device_id}: the broker drops what it says"
        return Check("broker", False, said, "Leave username out, or set it to the device_id")
    try:
        socket.create_connection((host, port), timeout=BROKER_S).close()
    except OSError as error:
        return Check("broker", True, f"{sync.broker} is not reached now ({error}): the agent serves, and tries on")
    return Check("broker", True, f"{sync.broker} is there; whether it lets us in is said by `edge-agent status`")


def _verified_label(path: Path, pinned_root: bytes, model: str) -> str:
    models = ModelsDb(path, immutable=True)
    try:
        snapshots = models.snapshots()
        if len(snapshots) != 1:
            raise Corrupt(f"it holds {len(snapshots)} snapshots, not one")
        evidence = decode_evidence(snapshots[0].evidence_raw)
        manifest = verify_admitted(evidence, snapshots[0].manifest_raw, pinned_root).manifest
        for sha256 in manifest.chunk_hashes():
            models.read_chunk(sha256)  # hashed as it is read
    finally:
        models.close()
    if manifest.name != model:
        raise Rejected(f"it holds {manifest.label()}, another model")
    return manifest.label()

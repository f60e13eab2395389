"""agent.toml as frozen, validated settings with their defaults; bounds that nobody sets are in `contract.limits`.

Reading the file is all that happens here: whether a folder is writable or a port free is the runtime's to find out.
"""

from __future__ import annotations

import sys
import tomllib
import urllib.parse
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from edge_agent.contract.errors import Rejected
from edge_agent.contract.limits import MODELS_PER_DEVICE_MAX
from edge_agent.contract.manifest import DeviceId, Label, Name
from edge_agent.contract.policy import Policy

Seconds = Annotated[float, Meta(ge=0, le=30 * 86400)]
Duration = Annotated[float, Meta(gt=0, le=30 * 86400)]


class Serving(Struct, frozen=True, forbid_unknown_fields=True):
    """[serving]: where applications ask. Port 0 takes a free one (see `edge-agent status`)."""

    http: str = "127.0.0.1:8000"
    hold_s: Seconds = 2.0  # how long a request waits for a worker during a swap or a restart
    deadline_s: Duration = 30.0
    queue_max: Annotated[int, Meta(ge=1, le=10_000)] = 256
    body_bytes_max: Annotated[int, Meta(ge=1024, le=1 << 30)] = 64 << 20
    insecure: bool = False


class ModelSettings(Policy, frozen=True, forbid_unknown_fields=True):
    """[models.NAME]: one slot, with the policy for its updates (`contract.policy`; its defaults are `core.rules`').

    factory: path of the read-only factory snapshot (`edge-agent factory`).
    """

    factory: str | None = None
    spare: bool = True

    def policy(self) -> Policy:
        """The policy alone."""
        return Policy(**{name: getattr(self, name) for name in Policy.__struct_fields__})


class EngineSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[engines.NAME]: the interpreter that has this engine (Python >= 3.7); default: the agent's own.

    A bare name is looked for on PATH; anything with a slash is a path, relative to the file's folder.
    """

    python: str = field(default_factory=lambda: sys.executable)


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """[limits]: bounds on what a load may take. worker_memory_bytes: address space of one worker, 0 = no bound."""

    load_timeout_s: Duration = 60.0
    worker_memory_bytes: Annotated[int, Meta(ge=0)] = 4 << 30  # a damaged file made paddle ask for 23.5 GB
    orphan_s: Duration = 120.0  # how long children serve on without a runtime
    store_bytes_max: Annotated[int, Meta(ge=1 << 20)] = 16 << 30


class Scrub(Struct, frozen=True, forbid_unknown_fields=True):
    """[scrub]: stored bytes of what is needed are read again in the background; golden vectors are replayed, one after
    the other, through each loaded worker.
    """

    interval_s: Duration = 600.0
    replay_interval_s: Duration = 60.0  # one vector of each worker
    chunks_per_s: Annotated[int, Meta(ge=1, le=10_000)] = 20


class Sync(Struct, frozen=True, forbid_unknown_fields=True):
    """[sync]: the broker (host:port) through which the coordinator is reached; without it the device is alone.

    username: at the broker, default the device_id. ca_file: speak TLS and trust this authority; cert_file and key_file:
    the device's own. insecure: speak to a broker or over HTTP beyond loopback without TLS. reconnect_max_s: the longest
    pause between two tries; each is drawn at random up to a bound that doubles to this. http: the coordinator's
    address, from where releases are fetched first; http_token_file: the device's own token there.
    """

    broker: str | None = None
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    http: str | None = None
    http_token_file: str | None = None
    insecure: bool = False
    reconnect_max_s: Duration = 60.0

    def broker_address(self) -> tuple[str, int]:
        """Host and port. Raises Rejected when there is none or it is not host:port."""
        host, _, port = (self.broker or "").rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) <= 65535:
            raise Rejected(
                f"[sync] broker = {self.broker!r} is not host:port", next_step='Write for example "127.0.0.1:1883"'
            )
        return host.strip("[]"), int(port)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of agent.toml. Relative paths are relative to the file's folder."""

    state_dir: str
    models: Annotated[dict[Name, ModelSettings], Meta(min_length=1, max_length=MODELS_PER_DEVICE_MAX)]
    trusted_root: str
    device_id: DeviceId = "device"
    device_type: Label = "generic"
    serving: Serving = Serving()
    engines: dict[Name, EngineSettings] = field(default_factory=lambda: {"numpy": EngineSettings()})
    limits: Limits = Limits()
    scrub: Scrub = Scrub()
    sync: Sync = Sync()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def listen_address(self) -> tuple[str, int]:
        """Host and port of [serving] http. Raises Rejected when it is not host:port."""
        host, _, port = self.serving.http.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise Rejected(
                f"[serving] http = {self.serving.http!r} is not host:port",
                next_step='Write for example http = "127.0.0.1:8000"',
            )
        return host.strip("[]"), int(port)


LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


def load_config(path: Path) -> Config:
    """Read and validate agent.toml. Raises Rejected with the key at fault and what to do."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"cannot read {path}: {error}", next_step="Give the path with --config") from error
    try:
        config = msgspec.convert(tomllib.loads(text), Config, strict=True)
    except tomllib.TOMLDecodeError as error:
        raise Rejected(f"{path} is not TOML: {error}", next_step="Mend that line") from error
    except msgspec.ValidationError as error:
        raise Rejected(
            f"{path}: {error}", next_step="See the table of keys in the README, section 'The device'"
        ) from error
    return _checked(_with_absolute_paths(config, path.resolve().parent))


def _with_absolute_paths(config: Config, base: Path) -> Config:
    models = {
        name: msgspec.structs.replace(model, factory=str(base / model.factory) if model.factory else None)
        for name, model in config.models.items()
    }
    engines = {
        name: EngineSettings(str(base / engine.python) if "/" in engine.python else engine.python)
        for name, engine in config.engines.items()
    }
    return msgspec.structs.replace(
        config,
        engines=engines,
        state_dir=str(base / config.state_dir),
        trusted_root=str(base / config.trusted_root),
        models=models,
        sync=msgspec.structs.replace(config.sync, **_absolute_files(config.sync, base)),
    )


_SYNC_FILES = ("password_file", "ca_file", "cert_file", "key_file", "http_token_file")


def _absolute_files(sync: Sync, base: Path) -> dict[str, str]:
    """The files of [sync] that are given, as absolute paths."""
    given = {name: getattr(sync, name) for name in _SYNC_FILES}
    return {name: str(base / path) for name, path in given.items() if path is not None}


def _checked(config: Config) -> Config:
    host, _ = config.listen_address()
    if host not in LOOPBACK_HOSTS and not config.serving.insecure:
        raise Rejected(
            f"[serving] http listens on {host}, which is not loopback, without TLS",
            next_step="Listen on 127.0.0.1 behind a TLS proxy, or set insecure = true in [serving] on purpose",
        )
    if config.sync.broker is not None:
        _check_sync(config.sync)
    if config.sync.http is not None:
        _check_http(config.sync, config.sync.http)
    return config


def _check_sync(sync: Sync) -> None:
    host, _ = sync.broker_address()
    if host not in LOOPBACK_HOSTS and sync.ca_file is None and not sync.insecure:
        raise Rejected(
            f"[sync] broker is {host}, which is not loopback, without TLS",
            next_step="Set ca_file in [sync], or insecure = true on purpose",
        )
    if (sync.cert_file is None) != (sync.key_file is None):
        raise Rejected("[sync] names only one of cert_file and key_file", next_step="Name both, or neither")


def _check_http(sync: Sync, address: str) -> None:
    try:
        url = urllib.parse.urlsplit(address)
        host, _ = url.hostname, url.port
    except ValueError:
        host = None
    if not host or url.scheme not in ("http", "https") or url.query or url.fragment or "@" in url.netloc:
        raise Rejected(
            f"[sync] http = {address!r} is no address", next_step='Write for example "https://coordinator.example"'
        )
    if url.scheme == "http" and host not in LOOPBACK_HOSTS and not sync.insecure:
        raise Rejected(
            f"[sync] http is {host}, which is not loopback, without TLS",
            next_step="Write https://, or set insecure = true in [sync] on purpose",
        )
    if sync.broker is None or sync.http_token_file is None:
        raise Rejected(
            "[sync] names http without a broker or without http_token_file",
            next_step="Name all three: assignments come through the broker; `fleet devices token ID` tells the token",
        )

"""What is measured: one real agent per model with two published snapshots, and the request that is sent to it.

Starting, importing and rolling back are here; what is measured meanwhile is not.
"""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.client import AdminClient, import_bundle
from edge_agent.config import load_config
from edge_agent.contract.manifest import encode_manifest
from edge_agent.offer.bundle_reader import BundleReader
from tests.harness.agent import Agent, wait_until
from tests.harness.client import infer_request
from tests.models_cache import model_folder
from tests.publishing import Publisher, manifest_of

VERSIONS = ("1.0.0", "1.1.0")
RECIPES = {"digits": "digits_lenet", "mobilenet_v2": "mobilenet_v2"}


@dataclass(frozen=True)
class Subject:
    """A model: its folder, two bundles with their digests, a factory file with the first, and one HTTP request."""

    name: str
    folder: Path
    bundles: tuple[Path, Path]
    digests: tuple[str, str]
    factory: Path
    request_file: Path
    body_bytes: int
    root_file: Path

    def agent(self, folder: Path, **model: Any) -> Agent:
        """An agent in a folder of its own that begins with the factory snapshot, and goes on with what it has.

        model: more settings of the slot.
        """
        return Agent(
            folder,
            self.root_file,
            engine="paddle",
            models={self.name: {"factory": str(self.factory), "probation_s": 0.0, **model}},
            serving={"http": f"127.0.0.1:{free_port()}"},
            limits={"orphan_s": 30.0},
        )


def prepare(name: str, publisher: Publisher, folder: Path) -> Subject:
    """Publish both versions (made by the recipe once, then kept), make the factory file and the request."""
    folders = [model_folder(RECIPES[name], version) for version in VERSIONS]
    bundles = []
    for version, made in zip(VERSIONS, folders, strict=True):
        publisher.pack(made)
        bundles.append(publisher.bundle(f"{name}@{version}", folder / f"{name}-{version}.bundle"))
    body, request = http_request(name, folders[0])
    request_file = folder / f"{name}.request"
    request_file.write_bytes(request)
    subject = Subject(
        name,
        folders[0],
        (bundles[0], bundles[1]),
        (digest_of(bundles[0]), digest_of(bundles[1])),
        folder / f"{name}.factory",
        request_file,
        len(body),
        publisher.root_file,
    )
    made_factory = subject.agent(folder / "factory").cli("factory", str(bundles[0]), "--out", str(subject.factory))
    assert made_factory.returncode == 0, made_factory.stderr
    return subject


def digest_of(bundle: Path) -> str:
    """The snapshot's digest."""
    return encode_manifest(manifest_of(bundle))[1]


def http_request(name: str, folder: Path) -> tuple[bytes, bytes]:
    """The body, and the whole request, of one inference with the first golden input as binary tensor."""
    golden = json.loads((folder / "snapshot.json").read_text())["golden"]["inputs"]
    ((input_name, path),) = golden.items()
    body, headers = infer_request(input_name, np.load(folder / path)[0])
    lines = [f"POST /v2/models/{name}/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{header}: {value}" for header, value in headers.items()]
    return body, "\r\n".join([*lines, "", ""]).encode() + body


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_of(agent: Agent) -> int:
    """The port that the configuration names: known before the agent answers."""
    return load_config(agent.config_file).listen_address()[1]


def first_answer(agent: Agent, subject: Subject) -> None:
    """Return with the first answer of the model; asks again while nobody listens or nothing serves."""
    head, _, body = subject.request_file.read_bytes().partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)

    def answered() -> bool:
        agent.check_alive()
        connection = http.client.HTTPConnection("127.0.0.1", port_of(agent), timeout=30)
        try:
            connection.request("POST", request_line.split()[1], body, headers)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    wait_until(answered, lambda: f"an answer of {subject.name}: {agent.log_tail(3)}", 30.0)


def wait_steady(agent: Agent, subject: Subject, digest: str) -> None:
    """Return once this snapshot serves with a second worker standing by, and nothing else is under way."""

    def steady() -> bool:
        status = agent.status_or_none()
        if status is None:
            return False
        model = status["models"][subject.name]
        workers = status["processes"]["workers"]
        return (
            model["serving"]
            and model["active"]["digest"] == digest
            and model["candidate"] is None
            and [worker["stage"] for worker in workers] == ["up", "up"]
            and {worker["digest"] for worker in workers} == {digest}
        )

    wait_until(steady, lambda: f"{subject.name} is steady: {agent.log_tail(3)}", 30.0)


def ask(agent: Agent, verb: str, **fields: Any) -> None:
    """What `edge-agent VERB` does once it has started."""
    with AdminClient(load_config(agent.config_file)) as client:
        client.ask(verb, **fields)


def bring_in(agent: Agent, subject: Subject, bundle: Path) -> None:
    """What `edge-agent import --no-wait` does once it has started."""
    with BundleReader(bundle) as opened:
        manifest = manifest_of(bundle)
        import_bundle(
            load_config(agent.config_file), opened, model=subject.name, version=manifest.version, retry=False,
            wait_s=30.0, progress=lambda done, total: None,
        )  # fmt: skip


def busy_worker(agent: Agent, digest: str) -> int:
    """The process id of the worker that computes, seen by the processor time that it takes."""
    pids = [worker["pid"] for worker in agent.workers(digest)]
    before = {pid: processor_ticks(pid) for pid in pids}

    def busy() -> int | None:
        grown = {pid: processor_ticks(pid) - before[pid] for pid in pids}
        return next((pid for pid, ticks in grown.items() if ticks >= 2 and ticks == max(grown.values())), None)

    pid: int = wait_until(busy, "a worker computes")
    return pid


def processor_ticks(pid: int) -> int:
    """User and system time of a process so far, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def pss_bytes(pid: int) -> int:
    """Proportional share of memory: pages that n processes share count 1/n in each."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no Pss")

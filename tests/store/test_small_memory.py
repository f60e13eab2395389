"""One import of a large snapshot by a real device inside a 2 GiB memory cgroup: it serves, and only the engine grows.

The snapshot has 324 MB of weights, all of them loaded, and beside them one file beyond 4 GiB that no engine wants.
"""

from __future__ import annotations

import http.client
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cloud_sync.publish.signing import read_published
from edge_agent.contract import evidence as names
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.limits import CHUNK_BYTES, GIB, MIB
from edge_agent.contract.manifest import EngineProfile, Manifest, Tolerance, encode_manifest
from tests.harness.agent import EDGE_AGENT, Agent
from tests.harness.client import ask
from tests.harness.fixtures import agents_of
from tests.harness.releases import Releases
from tests.publishing import Publisher
from tests.samples import a_manifest, file_entry
from tests.store import large
from tests.store.memory_group import MemoryGroup, memory_group

WIDTH = 9_000  # 4 -> WIDTH -> WIDTH -> 2: 324 MB of float32
ROWS = np.array([[0.5, -1.0, 2.0, 0.25], [1.0, 1.0, -0.5, 0.0]], dtype="<f4")


def weights() -> list[np.ndarray]:
    """Four, in the engine's order; no two chunks of them are the same."""
    chance = np.random.default_rng(3)
    first = chance.normal(size=(4, WIDTH)).astype("<f4")
    middle = (np.arange(WIDTH * WIDTH, dtype="<u4") % 1009).astype("<f4").reshape(WIDTH, WIDTH)
    middle -= 504
    middle *= 1e-6
    last = chance.normal(size=(WIDTH, 2)).astype("<f4")
    return [first, np.zeros(WIDTH, "<f4"), middle, np.zeros(WIDTH, "<f4"), last, np.zeros(2, "<f4")]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def large_model() -> tuple[Manifest, dict[str, bytes], np.ndarray]:
    """Manifest, files (but for the one beyond 4 GiB), and the answers to ROWS."""
    parts = weights()
    answers = ROWS @ parts[0] @ parts[2] @ parts[4]
    sizes = ((4, WIDTH), (WIDTH, WIDTH), (WIDTH, 2))
    layers = [{"op": "dense", "inputs": rows, "outputs": columns} for rows, columns in sizes]
    files = {
        "model.json": json.dumps({"format": 1, "layers": layers}).encode(),
        "model.bin": b"".join(part.tobytes() for part in parts),
        "golden/x.npy": npy(ROWS[:, None, :]),
        "golden/y.npy": npy(answers[:, None, :].astype("<f4")),
    }
    profile = EngineProfile("numpy", "holdfast-numpy", "model.json", "model.bin", tolerance=Tolerance(1e-3, 1e-3))
    entries = (*(file_entry(path, data) for path, data in files.items()), large.entry("archive"))
    return a_manifest(files=entries, engines=(profile,)), files, answers


def chunks_of(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for data in files.values():
        for at in range(0, len(data), CHUNK_BYTES):
            piece = data[at : at + CHUNK_BYTES]
            yield sha256_hex(piece), piece


def write_bundle(publisher: Publisher, manifest: Manifest, files: dict[str, bytes], out: Path) -> Path:
    """Sign, and write the bundle from memory: a repository would be another copy of it all on the disk."""
    publisher.publish_manifest(manifest, {})
    evidence = read_published(publisher.repository).evidence
    assert evidence is not None
    head = {
        names.BUNDLE_FORMAT_ENTRY: names.BUNDLE_FORMAT.encode(),
        **{names.bundle_root_entry(number): root for number, root in enumerate(evidence.root_chain, 1)},
        names.BUNDLE_TIMESTAMP_ENTRY: evidence.timestamp,
        names.BUNDLE_TUF_SNAPSHOT_ENTRY: evidence.tuf_snapshot,
        names.BUNDLE_TARGETS_ENTRY: evidence.targets,
        names.BUNDLE_MANIFEST_ENTRY: encode_manifest(manifest)[0],
    }
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as bundle:
        for name, data in head.items():
            bundle.writestr(zipfile.ZipInfo(name), data)
        for sha256, piece in dict((*chunks_of(files), *large.CHUNKS.items())).items():
            bundle.writestr(zipfile.ZipInfo(names.bundle_chunk_entry(sha256)), piece)
    return out


def peak_bytes(pid: int) -> int:
    """The most memory that this process ever had at a time, files that it read aside."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def import_and_ask(agent: Agent, group: MemoryGroup, bundle: Path, answers: np.ndarray) -> None:
    runtime = agent.start()._process
    assert isinstance(runtime, subprocess.Popen)
    group.take(runtime.pid)
    agent.status()
    command = [*EDGE_AGENT, "import", str(bundle), "--config", str(agent.config_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as importing:
        group.take(importing.pid)
        said, _ = importing.communicate(timeout=120)
    assert importing.returncode == 0, said
    agent.wait_model("tiny", lambda model: model["serving"] and not model["candidate"], "the large snapshot serves")
    processes = agent.status()["processes"]
    assert set(agent.pids()) <= group.pids(), "the limit holds for the whole device"
    connection = http.client.HTTPConnection("127.0.0.1", agent.port(), timeout=60)
    answer = ask(connection, "tiny", "x", ROWS[:1])
    connection.close()
    assert answer.output is not None, answer.text
    assert np.allclose(answer.output, answers[0], rtol=1e-3, atol=1e-3)
    assert group.killed() == 0
    for who in ("runtime", "front"):
        peak = peak_bytes(processes[who])
        print(f"{who}: peak {peak / MIB:.0f} MiB")
        assert peak < 200 * MIB, f"the {who} had {peak / MIB:.0f} MiB at once: it must not hold whole files"


def test_a_large_import_in_two_gibibytes_of_memory(tmp_path: Path, short_folder: Path) -> None:
    releases = Releases(tmp_path)
    manifest, files, answers = large_model()
    assert manifest.file("model.bin").length > 300 * MIB and manifest.total_bytes() > 4 * GIB
    bundle = write_bundle(releases.publisher, manifest, files, tmp_path / "large.bundle")
    del files
    with memory_group(2 * GIB) as group, agents_of(releases, short_folder) as new_agent:
        agent = new_agent(factory=None)
        agent.forked = False
        import_and_ask(agent, group, bundle, answers)

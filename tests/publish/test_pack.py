"""Packing: what is published is what was proven, once, and everything else is refused with a next step."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_sync.publish.durable import locked
from cloud_sync.publish.model_folder import read_model_folder
from cloud_sync.publish.pack import Silence, pack, refresh
from cloud_sync.publish.proving import Interpreters, prove
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import read_published
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.trust.chain import verify_offer
from edge_agent.trust.verified import DeviceProfile, TufVersions
from tests.publishing import Publisher
from tests.tiny_model import write_tiny_model

DEVICE = DeviceProfile("x86_64", ("numpy",), frozenset({"tiny"}))


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "publisher")


def refused(publisher: Publisher, folder: Path, reason: Reason | None, kind: type[HoldfastError] = Rejected) -> str:
    """The message of a refusal that left the repository as it was."""
    before = files_of(publisher.repository.folder)
    with pytest.raises(kind) as caught:
        publisher.pack(folder)
    assert caught.value.reason is reason, caught.value
    assert caught.value.next_step and "\n" not in caught.value.message
    assert files_of(publisher.repository.folder) == before
    return caught.value.message


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_packed_model_is_bundled_and_admitted_by_a_device(publisher: Publisher, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    packed = publisher.pack(folder)
    assert not packed.unchanged and packed.proofs[0].vectors == 3
    assert packed.proofs[0].max_rel_error < 1e-5
    profile = packed.manifest.engines[0]
    assert 1_000_000 < profile.resident_bytes < 2**30
    bundle = publisher.bundle("tiny@1.0.0", tmp_path / "tiny.bundle")
    with BundleReader(bundle) as reader:
        verified = verify_offer(
            reader.evidence,
            reader.manifest_raw,
            pinned_root=publisher.pinned,
            now=datetime.now(UTC),
            seen=TufVersions(),
            device=DEVICE,
        )
        assert (verified.manifest, verified.digest) == (packed.manifest, packed.digest)
        for entry in verified.manifest.files:
            content = b"".join(reader.chunk(chunk) for chunk in entry.chunks)
            assert content == (folder / entry.path).read_bytes()


def test_packing_the_same_again_changes_nothing(publisher: Publisher, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    first = publisher.pack(folder)
    before = files_of(publisher.repository.folder)
    again = publisher.pack(folder)
    assert again.unchanged and again.digest == first.digest
    assert files_of(publisher.repository.folder) == before


def test_the_same_version_with_other_bytes_is_a_conflict(publisher: Publisher, tmp_path: Path) -> None:
    publisher.pack(write_tiny_model(tmp_path / "one", seed=1))
    message = refused(publisher, write_tiny_model(tmp_path / "two", seed=2), Reason.VERSION_CONFLICT)
    assert "tiny@1.0.0 is already published with other bytes" in message
    same_bytes = write_tiny_model(tmp_path / "three", seed=1, compatible=["jetson"])
    refused(publisher, same_bytes, Reason.VERSION_CONFLICT)


def test_a_release_has_to_grow_per_model(publisher: Publisher, tmp_path: Path) -> None:
    publisher.pack(write_tiny_model(tmp_path / "a", version="1.0.0", release=5))
    for release in (4, 5):
        older = write_tiny_model(tmp_path / f"b{release}", version="1.1.0", release=release, seed=2)
        assert "tiny@1.0.0 is 5" in refused(publisher, older, Reason.VERSION_CONFLICT)
    publisher.pack(write_tiny_model(tmp_path / "c", version="1.1.0", release=6, seed=2))
    publisher.pack(write_tiny_model(tmp_path / "d", name="other", version="1.0.0", release=1))


def test_a_model_that_does_not_reproduce_its_golden_vectors_is_refused_with_the_numbers(
    publisher: Publisher, tmp_path: Path
) -> None:
    message = refused(publisher, write_tiny_model(tmp_path / "model", golden_error=0.25), Reason.PROOF)
    assert "does not reproduce its golden vectors with numpy" in message and "off by 0.25" in message


@pytest.mark.parametrize(
    ("layer", "reason", "words"),
    [
        ({"op": "fault", "when": "load", "kind": "segfault"}, Reason.LOAD_CRASH, "ended by SIGSEGV"),
        ({"op": "fault", "when": "run", "kind": "exit"}, Reason.LOAD_CRASH, "ended with exit code 3"),
        ({"op": "fault", "when": "run", "kind": "nan"}, Reason.NON_FINITE, "not finite"),
        ({"op": "fault", "when": "run", "kind": "raise"}, Reason.LOAD_FAILED, "raises on purpose"),
        ({"op": "nonsense"}, Reason.LOAD_FAILED, "unknown op"),
    ],
)
def test_a_model_that_does_not_run_is_refused(
    publisher: Publisher, tmp_path: Path, layer: dict[str, Any], reason: Reason, words: str
) -> None:
    assert words in refused(publisher, write_tiny_model(tmp_path / "model", layers=(layer,)), reason)


def test_a_model_that_hangs_is_ended_at_the_time_limit(tmp_path: Path) -> None:
    hang = {"op": "fault", "when": "load", "kind": "hang"}
    model = read_model_folder(write_tiny_model(tmp_path / "model", layers=(hang,)))
    with pytest.raises(Rejected) as caught:
        prove(model, model.description.engines[0].profile(), Interpreters(), timeout_s=1.0)
    assert caught.value.reason is Reason.LOAD_TIMEOUT


def test_a_model_folder_without_golden_vectors_is_refused(publisher: Publisher, tmp_path: Path) -> None:
    for number, golden in enumerate([None, {"count": 3, "inputs": {}, "outputs": {}}]):
        folder = write_tiny_model(tmp_path / str(number), golden=golden)
        assert "has no golden vectors" in refused(publisher, folder, Reason.MALFORMED)


def test_golden_vectors_that_do_not_fit_the_model_are_refused(publisher: Publisher, tmp_path: Path) -> None:
    fewer = write_tiny_model(tmp_path / "fewer")
    np.save(fewer / "golden" / "x.npy", np.zeros((2, 1, 4), "<f4"))
    assert "3 vectors" in refused(publisher, fewer, Reason.MALFORMED)
    for name, value in (("dtype", np.zeros((3, 1, 4), "<f8")), ("shape", np.zeros((3, 1, 5), "<f4"))):
        folder = write_tiny_model(tmp_path / name)
        np.save(folder / "golden" / "x.npy", value)
        refused(publisher, folder, Reason.MALFORMED)
    noise = write_tiny_model(tmp_path / "noise")
    (noise / "golden" / "y.npy").write_bytes(b"not an array")
    refused(publisher, noise, Reason.MALFORMED)


def test_missing_and_foreign_files_are_refused(publisher: Publisher, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    (folder / "model.bin").unlink()
    assert "names model.bin, but there is no such file" in refused(publisher, folder, Reason.MALFORMED)
    (tmp_path / "outside.bin").write_bytes(b"secret")
    (folder / "model.bin").symlink_to(tmp_path / "outside.bin")
    assert "not a path inside the model folder" in refused(publisher, folder, Reason.MALFORMED)
    for path in ("../outside.bin", str(tmp_path / "outside.bin"), "a b.bin"):
        engine = {"engine": "numpy", "format": "holdfast-numpy", "program": "model.json", "parameters": path}
        folder = write_tiny_model(tmp_path / "model2", engines=[engine])
        assert "not a path inside the model folder" in refused(publisher, folder, Reason.MALFORMED)


def test_a_malformed_description_is_refused_with_the_place(publisher: Publisher, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"release": "1"}, r"$.release"),
        ({"release": 0}, r"$.release"),
        ({"version": "1/2"}, r"$.version"),
        ({"colour": "red"}, "colour"),
        ({"inputs": [{"name": "x", "dtype": "FLOAT", "shape": [1]}]}, r"$.inputs[0].dtype"),
        ({"interface": None}, "interface"),
    ]
    for number, (changes, words) in enumerate(cases):
        folder = write_tiny_model(tmp_path / str(number), **changes)
        assert words in refused(publisher, folder, Reason.MALFORMED)
    (folder / "snapshot.json").write_bytes(b"\xff{")
    refused(publisher, folder, Reason.MALFORMED)
    refused(publisher, tmp_path / "nowhere", None)


def test_an_engine_that_is_not_there_is_named_with_the_option(publisher: Publisher, tmp_path: Path) -> None:
    engine = {"engine": "lite", "format": "nb", "program": "model.json"}
    folder = write_tiny_model(tmp_path / "model", engines=[engine])
    refused(publisher, folder, Reason.ENGINE_MISSING, Unavailable)
    with pytest.raises(Unavailable) as caught:
        publisher.pack(folder, pythons={"lite": tmp_path / "no-python"})
    assert "--engine-python lite=PATH" in caught.value.next_step


def test_the_interpreter_is_the_chosen_one_then_the_environment_then_ours(tmp_path: Path) -> None:
    environment = {"HOLDFAST_PADDLE_PYTHON": "/env/python", "HOLDFAST_PADDLE_LITE_PYTHON": "/lite/python"}
    found = Interpreters({"paddle": Path("/chosen/python")}, environment)
    assert found.find("paddle") == Path("/chosen/python")
    assert Interpreters({}, environment).find("paddle") == Path("/env/python")
    assert found.find("paddle-lite") == Path("/lite/python")
    assert found.find("numpy").name.startswith("python")


def test_a_second_publisher_has_to_wait(publisher: Publisher, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    publisher.pack(folder)
    with locked(publisher.repository.folder):
        message = refused(publisher, write_tiny_model(tmp_path / "b", version="2", release=2), None, Unavailable)
    assert "another publisher is at work" in message
    publisher.pack(write_tiny_model(tmp_path / "c", version="2", release=2))


def test_two_publishers_at_once_lose_nothing(publisher: Publisher, tmp_path: Path) -> None:
    publisher.pack(write_tiny_model(tmp_path / "first"))
    folders = [write_tiny_model(tmp_path / f"m{i}", name=f"m{i}", seed=i) for i in range(3)]
    outcomes: list[str] = []

    def publish(folder: Path) -> None:
        for _ in range(1000):
            try:
                outcomes.append(publisher.pack(folder).manifest.name)
                return
            except Unavailable:
                continue

    threads = [threading.Thread(target=publish, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["m0", "m1", "m2"]
    published = read_published(publisher.repository, publisher.pinned)
    assert len(published.targets) == 4 and published.versions["timestamp"] == 4


def test_other_keys_cannot_publish_into_a_repository(publisher: Publisher, tmp_path: Path) -> None:
    publisher.pack(write_tiny_model(tmp_path / "model"))
    stranger = Publisher(tmp_path / "stranger")
    stranger.repository = publisher.repository
    message = refused(stranger, write_tiny_model(tmp_path / "b", version="2", release=2), Reason.SIGNATURE)
    assert "begun with other keys" in message


def test_an_entry_that_someone_wrote_into_the_repository_is_never_signed(publisher: Publisher, tmp_path: Path) -> None:
    publisher.pack(write_tiny_model(tmp_path / "model"))
    targets = publisher.repository.folder / "metadata" / "1.targets.json"
    document = json.loads(targets.read_bytes())
    entries = document["signed"]["targets"]
    entries["manifests/tiny/9.json"] = entries["manifests/tiny/1.0.0.json"]
    targets.write_text(json.dumps(document))
    message = refused(publisher, write_tiny_model(tmp_path / "b", version="2", release=2), None, Corrupt)
    assert "does not verify" in message
    with pytest.raises(Corrupt):
        refresh(keys=publisher.keys, repository=publisher.repository, now=datetime.now(UTC))


def test_signed_files_of_the_repository_that_someone_changed_or_swapped_are_found(
    publisher: Publisher, tmp_path: Path
) -> None:
    metadata = publisher.repository.folder / "metadata"
    publisher.pack(write_tiny_model(tmp_path / "a"))
    timestamp = (metadata / "timestamp.json").read_bytes()
    document = json.loads(timestamp)
    document["signed"]["version"] = 7
    (metadata / "timestamp.json").write_text(json.dumps(document))
    refused(publisher, write_tiny_model(tmp_path / "b", version="2", release=2), None, Corrupt)
    (metadata / "timestamp.json").write_bytes(timestamp)
    publisher.pack(write_tiny_model(tmp_path / "b", version="2", release=2))
    swapped = (metadata / "2.targets.json").read_bytes()  # authentic, but then another version 2 is published
    (metadata / "timestamp.json").write_bytes(timestamp)
    publisher.pack(write_tiny_model(tmp_path / "c", version="3", release=3))
    (metadata / "2.targets.json").write_bytes(swapped)
    refused(publisher, write_tiny_model(tmp_path / "d", version="4", release=4), None, Corrupt)


class Meddler(Silence):
    """A Progress during whose storing step somebody writes into the model folder."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def step(self, text: str, total_bytes: int) -> None:
        if text.startswith("storing"):
            self.path.write_bytes(self.content)


@pytest.mark.parametrize("change", [b"other bytes of another length", b"", b"same length"])
def test_a_file_that_changes_after_the_proof_is_not_published(
    publisher: Publisher, tmp_path: Path, change: bytes
) -> None:
    folder = write_tiny_model(tmp_path / "model")
    weights = folder / "model.bin"
    content = bytes(weights.stat().st_size) if change == b"same length" else change
    with pytest.raises(Corrupt, match="while it was packed"):
        pack(
            folder,
            keys=publisher.keys,
            repository=publisher.repository,
            interpreters=Interpreters(),
            now=datetime.now(UTC),
            progress=Meddler(weights, content),
        )
    with pytest.raises(Rejected, match="there is no repository"):
        publisher.bundle("tiny@1.0.0", tmp_path / "b")


def test_damage_in_the_repository_is_found_and_named(publisher: Publisher, tmp_path: Path) -> None:
    packed = publisher.pack(write_tiny_model(tmp_path / "model"))
    chunk = publisher.repository.folder / "chunks" / packed.manifest.file("model.bin").chunks[0]
    good = chunk.read_bytes()
    chunk.write_bytes(good[:-1] + b"x")
    with pytest.raises(Corrupt, match="damaged"):
        publisher.bundle("tiny@1.0.0", tmp_path / "b")
    assert not (tmp_path / "b").exists() and not list(tmp_path.glob(".b.*"))
    chunk.write_bytes(good)
    manifest = publisher.repository.folder / "manifests" / "tiny" / "1.0.0.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"release":1', b'"release":2'))
    with pytest.raises(Corrupt, match="damaged"):
        publisher.bundle("tiny@1.0.0", tmp_path / "b")
    shutil.rmtree(publisher.repository.folder / "metadata")
    with pytest.raises(Rejected, match="there is no repository"):
        publisher.bundle("tiny@1.0.0", tmp_path / "b")


def test_an_interrupted_publication_leaves_the_one_before_and_can_be_repeated(
    publisher: Publisher, tmp_path: Path
) -> None:
    """timestamp.json is written last: whatever files of the next version lie there, nothing has changed before it."""
    publisher.pack(write_tiny_model(tmp_path / "a"))
    metadata = publisher.repository.folder / "metadata"
    timestamp = (metadata / "timestamp.json").read_bytes()
    publisher.pack(write_tiny_model(tmp_path / "b", version="2", release=2))
    (metadata / "timestamp.json").write_bytes(timestamp)  # as if the power had gone just before
    assert list(read_published(publisher.repository).targets) == ["manifests/tiny/1.0.0.json"]
    again = publisher.pack(write_tiny_model(tmp_path / "b", version="2", release=2))
    assert not again.unchanged and again.versions["timestamp"] == 2


def test_refreshing_moves_the_dates_and_floors_only_rise(publisher: Publisher, tmp_path: Path) -> None:
    publisher.pack(write_tiny_model(tmp_path / "a"))
    before = read_published(publisher.repository)
    later = datetime.now(UTC) + timedelta(days=40)
    refresh(keys=publisher.keys, repository=publisher.repository, now=later, floors={"tiny": 1})
    after = read_published(publisher.repository)
    assert after.expires is not None and before.expires is not None
    assert after.expires - before.expires > timedelta(days=39)
    assert dict(after.targets) == dict(before.targets) and dict(after.floors) == {"tiny": 1}
    publisher.refresh(floors={"tiny": 3})
    with pytest.raises(Rejected, match="cannot fall to 2"):
        publisher.refresh(floors={"tiny": 2})
    publisher.refresh()
    assert dict(read_published(publisher.repository).floors) == {"tiny": 3}


def test_a_minimum_policy_stays_until_another_one_is_stated(publisher: Publisher, tmp_path: Path) -> None:
    publisher.pack(write_tiny_model(tmp_path / "a"))
    minimum = Policy(probation_s=3600.0, share_percents=(5, 50))
    publisher.refresh(minimums={"tiny": minimum, "other": Policy(shadow_s=1.0)})
    publisher.pack(write_tiny_model(tmp_path / "b", version="2", release=2))
    assert read_published(publisher.repository).minimums["tiny"] == minimum
    publisher.refresh(minimums={"tiny": Policy()})
    assert dict(read_published(publisher.repository).minimums) == {"tiny": Policy(), "other": Policy(shadow_s=1.0)}


def test_a_repository_that_cannot_be_written_is_named(publisher: Publisher, tmp_path: Path) -> None:
    blocked = Repository(tmp_path / "blocked")
    blocked.folder.mkdir()
    (blocked.folder / "chunks").write_bytes(b"")  # permissions would not stop the user root
    with pytest.raises(Unavailable, match="cannot be written"):
        pack(
            write_tiny_model(tmp_path / "a"),
            keys=publisher.keys,
            repository=blocked,
            interpreters=Interpreters(),
            now=datetime.now(UTC),
        )

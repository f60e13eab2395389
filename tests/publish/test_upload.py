"""Uploading to a real coordinator: all of it arrives, once; what would change what devices know is refused."""

from __future__ import annotations

import copy
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from cloud_sync.client.api import Coordinator
from cloud_sync.publish.pack import Silence
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.upload import Uploaded, upload
from edge_agent.contract import limits
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason
from tests.cloud.town import Town
from tests.fleet.stand import Operator
from tests.harness.broker import Broker
from tests.publishing import Publisher
from tests.samples import a_manifest, file_entry

CHUNKS = 6 + 3  # of `Model.publish`
_numbers = count(1)


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """One publisher and its coordinator; each test has a model of its own."""
    with tempfile.TemporaryDirectory(prefix="hf-upload-") as name, Broker(Path(name) / "broker") as broker:
        publisher = Publisher(Path(name) / "publisher")
        with Town(Path(name) / "town", publisher, broker) as running:
            running.start()
            running.publish()
            yield running


@pytest.fixture
def publisher(town: Town) -> Publisher:
    return town.publisher


@dataclass(frozen=True)
class Model:
    """A model that nobody else has; seed decides its bytes."""

    name: str
    seed: int

    def publish(self, publisher: Publisher, version: str = "1.0.0", release: int = 10, seed: int = 0) -> None:
        """Sign a version of it: one file of six chunks, three of one."""
        chance = random.Random(self.seed * 1000 + seed)
        files = {path: chance.randbytes(100) for path in ("model.json", "golden/x.npy", "golden/y.npy")}
        files["large"] = chance.randbytes(5 * limits.CHUNK_BYTES + 100)
        entries = tuple(file_entry(path, content) for path, content in files.items())
        publisher.publish_manifest(
            a_manifest(name=self.name, version=version, release=release, files=entries), files
        )  # fmt: skip


@pytest.fixture
def model() -> Model:
    number = next(_numbers)
    return Model(f"model-{number}", number)


def send(running: Town, publisher: Publisher, progress: Silence | None = None) -> Uploaded:
    with Coordinator(running.url, running.token_file) as client:
        return upload(publisher.repository, client, progress=progress)


def refusal(running: Town, publisher: Publisher) -> HoldfastError:
    """Why an upload is refused, which changed nothing of what the coordinator states."""
    before = stated(running)
    with pytest.raises(HoldfastError) as caught:
        send(running, publisher)
    assert stated(running) == before and caught.value.next_step
    return caught.value


def stated(running: Town) -> dict[str, bytes]:
    """The signed files and manifests that devices would be given."""
    folder = running.data / "repository"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}


def copy_of(publisher: Publisher, folder: Path) -> Publisher:
    """The same publisher with a repository that is another one from now on."""
    shutil.copytree(publisher.keys.parent, folder)
    other = copy.copy(publisher)
    other.keys, other.repository = folder / "keys", Repository(folder / "repository")
    return other


def test_all_of_a_repository_arrives_and_what_is_there_is_not_sent_again(
    town: Town, publisher: Publisher, model: Model
) -> None:
    model.publish(publisher)
    done = send(town, publisher)
    assert (done.chunks, done.manifests) == (CHUNKS, 1)
    assert done.bytes == 5 * limits.CHUNK_BYTES + 400
    theirs, ours = town.data / "repository", publisher.repository.folder
    for path in (*ours.glob("chunks/*"), *ours.glob("manifests/*/*"), ours / "coordinator.json"):
        assert (theirs / path.relative_to(ours)).read_bytes() == path.read_bytes()
    assert (theirs / "metadata/timestamp.json").read_bytes() == (ours / "metadata/timestamp.json").read_bytes()
    again = send(town, publisher)
    assert (again.chunks, again.bytes, again.manifests) == (0, 0, 0)
    assert (again.snapshots, again.chunks_total) == (done.snapshots, done.chunks_total)
    model.publish(publisher, version="1.1.0", release=11)  # the same bytes under another version
    more = send(town, publisher)
    assert (more.chunks, more.manifests, more.snapshots) == (0, 1, done.snapshots + 1)


class StopsAfter(Silence):
    """A Progress that ends the coordinator when so many chunks have arrived."""

    def __init__(self, running: Town, chunks: int) -> None:
        self.running, self.left = running, chunks

    def advance(self, done_bytes: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.running.stop()


def test_an_upload_that_broke_off_goes_on_where_it_ended(town: Town, publisher: Publisher, model: Model) -> None:
    model.publish(publisher)
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        send(town, publisher, StopsAfter(town, 4))
    assert "run the same command again" in caught.value.next_step
    town.restart()
    listed = Operator(town).document("snapshot", "list")["snapshots"]
    assert model.name not in [row["name"] for row in listed]
    assert send(town, publisher).chunks == CHUNKS - 4


def test_a_chunk_that_the_coordinator_lost_is_sent_again(town: Town, publisher: Publisher, model: Model) -> None:
    model.publish(publisher)
    send(town, publisher)
    next((town.data / "repository" / "chunks").iterdir()).unlink()
    assert send(town, publisher).chunks == 1


def test_a_version_that_the_coordinator_knows_with_other_bytes_is_refused_before_anything_is_sent(
    town: Town, publisher: Publisher, model: Model, tmp_path: Path
) -> None:
    twin = copy_of(publisher, tmp_path / "twin")
    model.publish(publisher)
    send(town, publisher)
    model.publish(twin, seed=1)
    chunks = len(list((town.data / "repository" / "chunks").iterdir()))
    refused = refusal(town, twin)
    assert refused.reason is Reason.VERSION_CONFLICT and f"{model.name}@1.0.0" in refused.message
    told = Operator(town).document("snapshot", "publish", "--all", "--repo", twin.repository.folder, code=1)
    assert told["reason"] == "version_conflict" and "new version" in told["next_step"]
    assert len(list((town.data / "repository" / "chunks").iterdir())) == chunks
    raw = (twin.repository.folder / f"manifests/{model.name}/1.0.0.json").read_bytes()
    with Coordinator(town.url, town.token_file) as client, pytest.raises(Rejected) as caught:
        client.put_manifest(model.name, "1.0.0", raw)  # who does not look first is told too
    assert caught.value.reason is Reason.VERSION_CONFLICT


def test_an_older_state_of_the_repository_is_refused(
    town: Town, publisher: Publisher, model: Model, tmp_path: Path
) -> None:
    model.publish(publisher)
    older = copy_of(publisher, tmp_path / "older")
    model.publish(publisher, version="1.1.0", release=11)
    send(town, publisher)
    assert refusal(town, older).reason is Reason.METADATA_ROLLBACK


def test_the_repository_of_another_publisher_is_refused(town: Town, model: Model, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    model.publish(stranger)
    assert refusal(town, stranger).reason is Reason.SIGNATURE


def test_a_damaged_repository_publishes_nothing(town: Town, publisher: Publisher, model: Model, tmp_path: Path) -> None:
    damaged = copy_of(publisher, tmp_path / "damaged")
    model.publish(damaged)
    new = {path.name for path in (damaged.repository.folder / "chunks").iterdir()}
    new -= {path.name for path in (publisher.repository.folder / "chunks").iterdir()}
    chunk = damaged.repository.folder / "chunks" / sorted(new)[0]
    chunk.write_bytes(bytes(chunk.stat().st_size))
    assert isinstance(refusal(town, damaged), Corrupt)


def test_fresh_signatures_are_uploaded_alone(town: Town, publisher: Publisher) -> None:
    before = stated(town)["metadata/timestamp.json"]
    send(town, publisher)
    publisher.refresh()
    done = send(town, publisher)
    assert (done.chunks, done.manifests) == (0, 0)
    assert stated(town)["metadata/timestamp.json"] != before

"""Uploading to a real coordinator: all of it arrives, once; what would change what devices know is refused."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_sync.client.api import Coordinator
from cloud_sync.publish.pack import Silence
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.upload import Uploaded, upload
from edge_agent.contract import limits
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason
from tests.fleet.stand import CoordinatorProcess
from tests.publishing import Publisher
from tests.samples import a_manifest, file_entry

FILES = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}
LARGE = random.Random(7).randbytes(5 * limits.CHUNK_BYTES + 1)  # six different chunks


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "publisher")


@pytest.fixture
def coordinator(tmp_path: Path, publisher: Publisher) -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess(tmp_path / "coordinator", publisher) as running:
        yield running


def send(running: CoordinatorProcess, publisher: Publisher, progress: Silence | None = None) -> Uploaded:
    with Coordinator(running.url, running.folder / "token") as asked:
        return upload(publisher.repository, asked, progress=progress)


def refusal(running: CoordinatorProcess, publisher: Publisher) -> HoldfastError:
    """Why an upload is refused, which changed nothing of what the coordinator states."""
    before = stated(running)
    with pytest.raises(HoldfastError) as caught:
        send(running, publisher)
    assert stated(running) == before and caught.value.next_step
    return caught.value


def stated(running: CoordinatorProcess) -> dict[str, bytes]:
    """The files that devices would be given."""
    folder = running.folder / "repository"
    files = (*folder.rglob("*.json"), *folder.glob("metadata/*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def publish_large(publisher: Publisher) -> None:
    large = file_entry("large", LARGE)
    publisher.publish_manifest(a_manifest(files=(*a_manifest().files, large)), {**FILES, "large": LARGE})


def copy_of(publisher: Publisher, folder: Path) -> Publisher:
    """The same publisher with a repository that is another one from now on."""
    shutil.copytree(publisher.keys.parent, folder)
    other = copy.copy(publisher)
    other.keys, other.repository = folder / "keys", Repository(folder / "repository")
    return other


def test_all_of_a_repository_arrives_and_the_coordinator_knows_its_own_name(
    coordinator: CoordinatorProcess, publisher: Publisher
) -> None:
    publish_large(publisher)
    publisher.authorize_coordinator(coordinator.public_key.read_text().strip())
    done = send(coordinator, publisher)
    assert (done.chunks, done.chunks_total, done.manifests, done.snapshots) == (9, 9, 1, 1)
    assert done.bytes == len(LARGE) + sum(map(len, FILES.values()))
    theirs, ours = coordinator.folder / "repository", publisher.repository.folder
    for path in (*ours.glob("chunks/*"), *ours.glob("manifests/*/*"), ours / "coordinator.json"):
        assert (theirs / path.relative_to(ours)).read_bytes() == path.read_bytes()
    assert (theirs / "metadata/timestamp.json").read_bytes() == (ours / "metadata/timestamp.json").read_bytes()


def test_what_is_there_is_not_sent_again(coordinator: CoordinatorProcess, publisher: Publisher) -> None:
    publish_large(publisher)
    send(coordinator, publisher)
    again = send(coordinator, publisher)
    assert (again.chunks, again.bytes, again.manifests, again.snapshots) == (0, 0, 0, 1)
    publisher.publish_manifest(a_manifest(version="1.1.0", release=11), {**FILES, "model.json": b"program"})
    more = send(coordinator, publisher)
    assert (more.chunks, more.manifests, more.snapshots) == (0, 1, 2)


class StopsAfter(Silence):
    """A Progress that ends the coordinator when so many chunks have arrived."""

    def __init__(self, running: CoordinatorProcess, chunks: int) -> None:
        self.running, self.left = running, chunks

    def advance(self, done_bytes: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.running.stop()


def test_an_upload_that_broke_off_goes_on_where_it_ended(coordinator: CoordinatorProcess, publisher: Publisher) -> None:
    publish_large(publisher)
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        send(coordinator, publisher, StopsAfter(coordinator, 4))
    assert "run the same command again" in caught.value.next_step
    coordinator.start()
    assert coordinator.document("snapshot", "list")["snapshots"] == []
    assert send(coordinator, publisher).chunks == 5


def test_a_chunk_that_the_coordinator_lost_is_sent_again(coordinator: CoordinatorProcess, publisher: Publisher) -> None:
    publish_large(publisher)
    send(coordinator, publisher)
    next((coordinator.folder / "repository" / "chunks").iterdir()).unlink()
    assert send(coordinator, publisher).chunks == 1


def test_a_version_that_the_coordinator_knows_with_other_bytes_is_refused_before_anything_is_sent(
    coordinator: CoordinatorProcess, publisher: Publisher, tmp_path: Path
) -> None:
    twin = copy_of(publisher, tmp_path / "twin")
    publisher.publish_manifest(a_manifest(), FILES)
    send(coordinator, publisher)
    twin.publish_manifest(a_manifest(interface="other"), {**FILES, "large": LARGE})
    refused = refusal(coordinator, twin)
    assert refused.reason is Reason.VERSION_CONFLICT and "tiny@1.0.0" in refused.message
    told = coordinator.document("snapshot", "publish", "--all", "--repo", twin.repository.folder, code=1)
    assert told["reason"] == "version_conflict" and "new version" in told["next_step"]
    raw = (twin.repository.folder / "manifests/tiny/1.0.0.json").read_bytes()
    with (
        Coordinator(coordinator.url, coordinator.folder / "token") as asked,
        pytest.raises(Rejected) as caught,
    ):
        asked.put_manifest("tiny", "1.0.0", raw)  # who does not look first is told too
    assert caught.value.reason is Reason.VERSION_CONFLICT


def test_an_older_state_of_the_repository_is_refused(
    coordinator: CoordinatorProcess, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish_manifest(a_manifest(), FILES)
    older = copy_of(publisher, tmp_path / "older")
    publisher.publish_manifest(a_manifest(version="1.1.0", release=11), FILES)
    send(coordinator, publisher)
    assert refusal(coordinator, older).reason is Reason.METADATA_ROLLBACK


def test_the_repository_of_another_publisher_is_refused(
    coordinator: CoordinatorProcess, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish_manifest(a_manifest(), FILES)
    send(coordinator, publisher)
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish_manifest(a_manifest(name="strange"), FILES)
    assert refusal(coordinator, stranger).reason is Reason.SIGNATURE


def test_a_damaged_repository_publishes_nothing(coordinator: CoordinatorProcess, publisher: Publisher) -> None:
    publish_large(publisher)
    chunk = next(path for path in (publisher.repository.folder / "chunks").iterdir() if path.stat().st_size > 1000)
    chunk.write_bytes(bytes(chunk.stat().st_size))
    assert isinstance(refusal(coordinator, publisher), Corrupt)


def test_fresh_signatures_are_uploaded_alone(coordinator: CoordinatorProcess, publisher: Publisher) -> None:
    publisher.publish_manifest(a_manifest(), FILES)
    send(coordinator, publisher)
    before = stated(coordinator)["metadata/timestamp.json"]
    publisher.refresh()
    done = send(coordinator, publisher)
    assert (done.chunks, done.manifests) == (0, 0)
    assert stated(coordinator)["metadata/timestamp.json"] != before

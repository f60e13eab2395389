"""An outside judge: python-tuf's own client accepts the repository that we sign, step by step, and its manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_agent.contract.evidence import manifest_target_path
from tests.publishing import Publisher
from tests.samples import a_manifest, manifest_raw

FILES = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}


class FolderFetcher(FetcherInterface):
    """Reads file: addresses, as a web server would give them."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(url2pathname(urlparse(url).path))
        if not path.is_file():
            raise DownloadHTTPError("not found", 404)
        yield path.read_bytes()


def updater(publisher: Publisher, folder: Path) -> Updater:
    folder.mkdir(exist_ok=True)
    return Updater(
        metadata_dir=str(folder),
        metadata_base_url=(publisher.repository.folder / "metadata").as_uri(),
        target_dir=str(folder),
        target_base_url=publisher.repository.folder.as_uri(),
        fetcher=FolderFetcher(),
        config=UpdaterConfig(prefix_targets_with_hash=False),
        bootstrap=publisher.pinned,
    )


def test_the_reference_client_follows_our_repository(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher")
    publisher.publish_manifest(a_manifest(), FILES)
    first = updater(publisher, tmp_path / "client")
    target = first.get_targetinfo(manifest_target_path("tiny", "1.0.0"))
    assert target is not None
    assert Path(first.download_target(target)).read_bytes() == manifest_raw()
    publisher.publish_manifest(a_manifest(version="1.1.0", release=11), FILES, floors={"tiny": 10})
    publisher.refresh()
    second = updater(publisher, tmp_path / "client")
    assert second.get_targetinfo(manifest_target_path("tiny", "1.0.0")) is not None
    assert second.get_targetinfo(manifest_target_path("tiny", "1.1.0")) is not None
    assert second.get_targetinfo(manifest_target_path("tiny", "1.2.0")) is None

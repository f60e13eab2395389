"""python-tuf's client in a thread of its own: from what is kept verified to what the coordinator has now. How bytes
arrive and what is done with the result is `metadata`'s; what counts in the end is the runtime's own verification.

Imported at the first refresh only: python-tuf takes 10 MB of memory.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Unavailable
from edge_agent.contract.evidence import MetadataFiles
from edge_agent.contract.transfer import Status
from edge_agent.sync.requests import NotServed
from edge_agent.sync.signed_words import version_of, version_stated

Ask = Callable[[str], bytes]  # name of a metadata file -> its bytes; raises NotServed, Unavailable, Rejected

log = structlog.get_logger()

_BASE = "holdfast:///"
_CONFIG = UpdaterConfig(
    max_root_rotations=limits.ROOT_CHAIN_MAX,
    root_max_length=limits.METADATA_BYTES_MAX,
    timestamp_max_length=limits.METADATA_BYTES_MAX,
    snapshot_max_length=limits.METADATA_BYTES_MAX,
    targets_max_length=limits.METADATA_BYTES_MAX,
)


class _AskingFetcher(FetcherInterface):
    """python-tuf's idea of a network: it ends its walk along the roots at a 404."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE)
        try:
            return iter([self._ask(name)])
        except NotServed as error:
            raise DownloadHTTPError(str(error), error.status) from error
        except HoldfastError as error:
            raise DownloadError(str(error)) from error


def refresh(kept: MetadataFiles, ask: Ask, folder: Path) -> tuple[MetadataFiles, str]:
    """Walk from what is kept to the newest files: those that belong together, as far as it came, and why it came no
    further ('' = all is fresh). Blocking, and patient as `ask` is.

    Without a kept root the coordinator's first one is taken: it opens nothing, the runtime has its own. A refusal for
    the dates alone may be this device's wrong clock: then the rest is fetched unseen, and the runtime says what it is.
    folder: for python-tuf's files, made new and removed again; of a fixed name, so that a kill leaves at most one.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        _updater(folder, kept, ask).refresh()
    except ExpiredMetadataError as error:
        return _plainly(_found(folder, kept), ask), f"by date alone: {error}"
    except Exception as error:  # of hostile bytes python-tuf raises what it likes; this process goes on in any case
        if not isinstance(error, RepositoryError | DownloadError | HoldfastError | OSError):
            log.error("metadata_client_failed", exc_info=error)
        return _found(folder, kept), f"{type(error).__name__}: {error}"
    else:
        return _found(folder, kept), ""
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _updater(folder: Path, kept: MetadataFiles, ask: Ask) -> Updater:
    history = folder / "root_history"
    history.mkdir()
    roots = kept.root_chain or (ask("1.root.json"),)
    for raw in roots:
        (history / f"{version_of(raw)}.root.json").write_bytes(raw)
    for role, file in (("timestamp", kept.timestamp), ("snapshot", kept.tuf_snapshot), ("targets", kept.targets)):
        if file is not None:
            (folder / f"{role}.json").write_bytes(file)
    return Updater(
        metadata_dir=str(folder),
        metadata_base_url=_BASE,
        fetcher=_AskingFetcher(ask),
        config=_CONFIG,
        bootstrap=min(roots, key=version_of),
    )


def _found(folder: Path, kept: MetadataFiles) -> MetadataFiles:
    """What the updater verified and kept; a file that a newer one does not name any more is left out."""
    history = sorted((folder / "root_history").glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))
    roots = tuple(path.read_bytes() for path in history)[-limits.ROOT_CHAIN_MAX :] or kept.root_chain
    timestamp, snapshot, targets = (_read(folder / f"{role}.json") for role in ("timestamp", "snapshot", "targets"))
    if timestamp is None or snapshot is None or version_stated(timestamp, "snapshot.json") != version_of(snapshot):
        return MetadataFiles(roots, timestamp)
    if targets is None or version_stated(snapshot, "targets.json") != version_of(targets):
        return MetadataFiles(roots, timestamp, snapshot)
    return MetadataFiles(roots, timestamp, snapshot, targets)


def _plainly(found: MetadataFiles, ask: Ask) -> MetadataFiles:
    """The newest files by what they say of each other, unverified."""
    roots, timestamp, snapshot = list(found.root_chain), found.timestamp, None
    try:
        while len(roots) < limits.ROOT_CHAIN_MAX:
            try:
                roots.append(ask(f"{version_of(roots[-1]) + 1}.root.json"))
            except NotServed as error:
                if error.status != Status.NOT_THERE:
                    raise
                break
        timestamp = ask("timestamp.json")
        snapshot = ask(f"{version_stated(timestamp, 'snapshot.json')}.snapshot.json")
        targets = ask(f"{version_stated(snapshot, 'targets.json')}.targets.json")
    except (Unavailable, ValueError):
        return MetadataFiles(tuple(roots), timestamp, snapshot)
    return MetadataFiles(tuple(roots), timestamp, snapshot, targets)


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None

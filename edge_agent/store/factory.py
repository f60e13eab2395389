"""The factory snapshot: a read-only models.db that holds one snapshot, the last rung of the ladder.

Who may make it is the CLI's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.reasons import Reason
from edge_agent.store.models_db import ModelsDb
from edge_agent.store.sqlite import sync_folder

FACTORY_MODE = 0o444


def write_factory(
    out: Path,
    digest: str,
    manifest: Manifest,
    manifest_raw: bytes,
    evidence_raw: bytes,
    chunks: Iterable[tuple[str, bytes]],
    at_unix_ms: int,
    *,
    renew: bool = False,
) -> None:
    """Write the factory file whole or not at all; until then the one that is there stays.

    Raises Rejected when it exists already and is not to be renewed.
    """
    if out.exists() and not renew:
        raise Rejected(f"{out} exists already", next_step="Add --renew if the factory snapshot is to be renewed")
    temporary = out.with_name(out.name + ".new")
    temporary.unlink(missing_ok=True)
    try:
        models = ModelsDb(temporary)
        try:
            models.begin_offer(digest, manifest, manifest_raw, evidence_raw, at_unix_ms)
            for sha256, data in chunks:
                models.put_chunk(sha256, data)
            models.admit(digest, manifest, at_unix_ms)
        finally:
            models.close()
        temporary.chmod(FACTORY_MODE)
        temporary.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise Unavailable(f"cannot write {out}: {error}", reason=Reason.DISK_FULL) from error
    finally:
        temporary.unlink(missing_ok=True)

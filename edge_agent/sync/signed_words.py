"""What signed metadata says, read before anybody has verified it: good for deciding what to fetch next and for nothing
else. Verifying is python-tuf's (in `updater`) and the runtime's.
"""

from __future__ import annotations

import json
from typing import Any

from edge_agent.contract import limits
from edge_agent.contract.evidence import MetadataFiles


def stated_digest(files: MetadataFiles, target_path: str) -> str | None:
    """The SHA-256 that targets states for this path; None: it names no such path."""
    try:
        stated = _signed(files.targets)["targets"][target_path]["hashes"]["sha256"]
    except (KeyError, TypeError, ValueError):
        return None
    return stated if isinstance(stated, str) else None


def _signed(raw: bytes | None) -> Any:
    """The signed part, whatever it is. Raises ValueError when there is none."""
    try:
        frame = json.loads(raw or b"")
    except RecursionError as error:
        raise ValueError("a metadata file that is nested too deep") from error
    signed = frame.get("signed") if isinstance(frame, dict) else None
    if isinstance(signed, dict):
        return signed
    raise ValueError("a metadata file without a signed part")


def version_of(raw: bytes) -> int:
    """The version that this file has. Raises ValueError."""
    return _counted(_signed(raw).get("version"))


def version_stated(raw: bytes, name: str) -> int:
    """The version of another file that this one states. Raises ValueError."""
    meta = _signed(raw).get("meta")
    stated = meta.get(name) if isinstance(meta, dict) else None
    return _counted(stated.get("version") if isinstance(stated, dict) else None)


def _counted(version: object) -> int:
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= limits.RELEASE_MAX:
        raise ValueError(f"not a version: {version!r:.40}")
    return version

"""The publisher's keys: made once, never overwritten, private, and checked against the root before they sign."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from cloud_sync.publish.keys import TUF_ROLES, create_keys, load_signer, read_first_root
from edge_agent.contract.errors import Rejected
from edge_agent.trust.chain import check_pinned_root

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def root_of(folder: Path) -> Root:
    metadata: Metadata[Root] = Metadata.from_bytes(read_first_root(folder))
    return metadata.signed


def test_four_private_keys_and_a_root_that_devices_can_pin(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    path = create_keys(folder, now=NOW)
    assert check_pinned_root(path.read_bytes()) == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    for role in TUF_ROLES:
        assert (folder / f"{role}.pem").stat().st_mode & 0o777 == 0o600
    root = root_of(folder)
    assert root.expires - NOW == timedelta(days=3650)
    assert len(root.keys) == 4 and all(role.threshold == 1 for role in root.roles.values())
    assert {key.scheme for key in root.keys.values()} == {"ed25519"}


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    create_keys(tmp_path, now=NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "1.root.json").unlink()
    with pytest.raises(Rejected, match="has keys already"):
        create_keys(tmp_path, now=NOW)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items() <= before.items()


def test_a_missing_wrong_or_broken_key_is_named(tmp_path: Path) -> None:
    folder, other = tmp_path / "keys", tmp_path / "other"
    create_keys(folder, now=NOW)
    create_keys(other, now=NOW)
    root = root_of(folder)
    assert load_signer(folder, "targets", root).public_key.keyid in root.roles["targets"].keyids
    with pytest.raises(Rejected, match="not the key that the root names"):
        load_signer(other, "targets", root)
    (folder / "targets.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    with pytest.raises(Rejected, match="not the key that the root names"):
        load_signer(folder, "targets", root)
    (folder / "targets.pem").unlink()
    with pytest.raises(Rejected, match="cannot be read"):
        load_signer(folder, "targets", root)
    with pytest.raises(Rejected, match="there are no keys"):
        read_first_root(tmp_path / "nowhere")

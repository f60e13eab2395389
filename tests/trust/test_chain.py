"""What a device must and must not trust: one case per clause that chain.py cites."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from edge_agent.contract import limits
from edge_agent.contract.canonical import encode, sha256_hex
from edge_agent.contract.errors import Bug, Rejected
from edge_agent.contract.evidence import Evidence
from edge_agent.contract.reasons import Reason
from edge_agent.trust.chain import check_pinned_root, verify_admitted, verify_metadata, verify_offer
from edge_agent.trust.verified import DeviceProfile, TufVersions, VerifiedManifest
from tests.samples import a_manifest, manifest_raw
from tests.trust.authority import NOW, Authority, signed

DEVICE = DeviceProfile("x86_64", ("numpy", "paddle"), frozenset({"tiny"}))
RAW = manifest_raw()
FIELD = {
    "timestamp": "timestamp",
    "snapshot": "tuf_snapshot",
    "targets": "targets",
}  # TUF's word -> Evidence's


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def offer(
    evidence: Evidence,
    raw: bytes = RAW,
    *,
    pinned: bytes,
    now: datetime = NOW,
    seen: TufVersions | None = None,
    device: DeviceProfile = DEVICE,
) -> VerifiedManifest:
    return verify_offer(evidence, raw, pinned_root=pinned, now=now, seen=seen or TufVersions(), device=device)


def refused(reason: Reason, call: Callable[..., object], *args: Any, **options: Any) -> str:
    with pytest.raises(Rejected) as caught:
        call(*args, **options)
    assert caught.value.reason is reason
    assert caught.value.next_step
    return caught.value.message


def test_a_good_offer_gives_the_manifest_with_its_evidence_versions_and_floors(authority: Authority) -> None:
    evidence = authority.evidence(RAW, version=7, floors={"tiny": 3})
    verified = offer(evidence, pinned=authority.pinned)
    assert verified.manifest == a_manifest()
    assert (verified.raw, verified.digest, verified.evidence) == (RAW, sha256_hex(RAW), evidence)
    assert verified.versions == TufVersions(root=1, timestamp=7, tuf_snapshot=7, targets=7)
    assert dict(verified.floors) == {"tiny": 3}


def test_an_admitted_snapshot_verifies_from_its_evidence_alone_long_after_every_date(
    authority: Authority,
) -> None:
    past = {role: NOW - timedelta(days=999) for role in FIELD}
    evidence = authority.evidence(RAW, expires=past)
    refused(Reason.EXPIRED, offer, evidence, pinned=authority.pinned)
    assert verify_admitted(evidence, RAW, authority.pinned).manifest == a_manifest()


@pytest.mark.parametrize("role", FIELD)
def test_a_flipped_signature_is_refused_in_every_role(authority: Authority, role: str) -> None:
    evidence = authority.evidence(RAW)
    frame = msgspec.json.decode(getattr(evidence, FIELD[role]))
    good = frame["signatures"][0]["sig"]
    frame["signatures"][0]["sig"] = ("0" if good[0] != "0" else "1") + good[1:]
    flipped = msgspec.structs.replace(evidence, **{FIELD[role]: msgspec.json.encode(frame)})
    # The files above hold this file's hash; their keys are not at hand, so either fault may be found first.
    refused(Reason.SIGNATURE, offer, flipped, pinned=authority.pinned)
    refused(Reason.SIGNATURE, verify_admitted, flipped, RAW, authority.pinned)


@pytest.mark.parametrize("role", FIELD)
def test_a_strangers_signature_is_refused_in_every_role(authority: Authority, role: str) -> None:
    stranger = [CryptoSigner.generate_ed25519()]
    evidence = authority.evidence(RAW, signed_by={role: stranger})
    assert "not signed" in refused(Reason.SIGNATURE, offer, evidence, pinned=authority.pinned)


def test_everything_of_another_publisher_is_refused(authority: Authority) -> None:
    evidence = Authority().evidence(RAW)
    refused(Reason.SIGNATURE, offer, evidence, pinned=authority.pinned)


@pytest.mark.parametrize("role", FIELD)
def test_fewer_signatures_than_the_threshold_are_refused(role: str) -> None:
    authority = Authority(keys_per_role=3, threshold=2)
    assert offer(authority.evidence(RAW), pinned=authority.pinned)
    enough = authority.evidence(RAW, signed_by={role: authority.signers[role][:2]})
    assert offer(enough, pinned=authority.pinned)
    short = authority.evidence(RAW, signed_by={role: authority.signers[role][:1]})
    refused(Reason.SIGNATURE, offer, short, pinned=authority.pinned)


def test_a_signature_of_one_role_is_worth_nothing_in_another(authority: Authority) -> None:
    evidence = authority.evidence(RAW, signed_by={"targets": authority.signers["timestamp"]})
    refused(Reason.SIGNATURE, offer, evidence, pinned=authority.pinned)
    good = authority.evidence(RAW)
    swapped = msgspec.structs.replace(good, tuf_snapshot=good.timestamp)
    refused(Reason.SIGNATURE, offer, swapped, pinned=authority.pinned)


def test_files_of_different_days_cannot_be_mixed(authority: Authority) -> None:
    old, new = authority.evidence(RAW, version=1), authority.evidence(RAW, version=2)
    for field in FIELD.values():
        mixed = msgspec.structs.replace(new, **{field: getattr(old, field)})
        refused(Reason.SIGNATURE, offer, mixed, pinned=authority.pinned)


@pytest.mark.parametrize(
    ("role", "edit"),
    [
        ("timestamp", lambda payload: setattr(payload.snapshot_meta, "version", 2)),
        ("timestamp", lambda payload: payload.snapshot_meta.hashes.update(sha256="0" * 64)),
        ("timestamp", lambda payload: payload.snapshot_meta.hashes.update(nonsense="0" * 64)),
        ("timestamp", lambda payload: setattr(payload.snapshot_meta, "length", 1)),
        ("snapshot", lambda payload: setattr(payload.meta["targets.json"], "version", 2)),
        ("snapshot", lambda payload: payload.meta["targets.json"].hashes.update(sha256="0" * 64)),
        ("snapshot", lambda payload: payload.meta.clear()),
    ],
)
def test_a_link_that_does_not_hold_is_refused(authority: Authority, role: str, edit: Callable[[Any], None]) -> None:
    evidence = authority.evidence(RAW, edit={role: edit})
    refused(Reason.SIGNATURE, offer, evidence, pinned=authority.pinned)


@pytest.mark.parametrize("version", [True, 0, -1, 2**53])
def test_a_signed_version_that_is_no_version_is_refused(authority: Authority, version: Any) -> None:
    """Whoever holds the timestamp key must not bring a number into the device that its store cannot hold."""
    evidence = authority.evidence(RAW, edit={"timestamp": lambda payload: setattr(payload, "version", version)})
    refused(Reason.MALFORMED, offer, evidence, pinned=authority.pinned)
    link = authority.evidence(RAW, edit={"timestamp": lambda p: setattr(p.snapshot_meta, "version", version)})
    refused(Reason.MALFORMED, offer, link, pinned=authority.pinned)


@pytest.mark.parametrize("role", FIELD)
def test_an_expired_file_stops_new_content_and_names_the_role(authority: Authority, role: str) -> None:
    at_the_second = authority.evidence(RAW, expires={role: NOW})
    message = refused(Reason.EXPIRED, offer, at_the_second, pinned=authority.pinned)
    assert FIELD[role] in message
    still_good = authority.evidence(RAW, expires={role: NOW + timedelta(seconds=1)})
    assert offer(still_good, pinned=authority.pinned)


def test_only_the_last_root_may_not_have_expired() -> None:
    authority = Authority(root_expires=NOW - timedelta(days=1))
    evidence = authority.evidence(RAW)
    refused(Reason.EXPIRED, offer, evidence, pinned=authority.pinned)
    authority.root_expires = NOW + timedelta(days=1)
    authority.rotate("root")
    assert offer(authority.evidence(RAW), pinned=authority.pinned).versions.root == 2


def test_a_time_without_zone_is_our_own_bug(authority: Authority) -> None:
    with pytest.raises(Bug):
        offer(authority.evidence(RAW), pinned=authority.pinned, now=datetime(2030, 6, 1))


@pytest.mark.parametrize("role", ["timestamp", "tuf_snapshot", "targets"])
def test_versions_below_those_seen_are_refused_and_equal_ones_are_not(authority: Authority, role: str) -> None:
    evidence = authority.evidence(RAW, version=5)
    assert offer(evidence, pinned=authority.pinned, seen=TufVersions(1, 5, 5, 5))
    seen = TufVersions(**{"root": 1, role: 6})
    message = refused(Reason.METADATA_ROLLBACK, offer, evidence, pinned=authority.pinned, seen=seen)
    assert f"{role} metadata has version 5, but this device has seen version 6" in message


def test_an_older_root_than_seen_is_refused() -> None:
    authority = Authority()
    evidence = authority.evidence(RAW)
    seen = TufVersions(root=2)
    refused(Reason.METADATA_ROLLBACK, offer, evidence, pinned=authority.pinned, seen=seen)


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_rotating_an_online_key_frees_a_device_that_saw_absurd_versions(role: str) -> None:
    authority = Authority()
    stuck = TufVersions(root=1, timestamp=10**9, tuf_snapshot=10**9, targets=4)
    refused(
        Reason.METADATA_ROLLBACK,
        offer,
        authority.evidence(RAW, version=5),
        pinned=authority.pinned,
        seen=stuck,
    )
    authority.rotate(role)
    assert offer(authority.evidence(RAW, version=5), pinned=authority.pinned, seen=stuck)
    older = authority.evidence(RAW, version=3)  # the keys of targets did not rotate: their mark stands
    refused(Reason.METADATA_ROLLBACK, offer, older, pinned=authority.pinned, seen=stuck)


def test_a_device_that_was_freed_stays_free() -> None:
    """The absurd versions are still in the evidence of an older snapshot, under the root before."""
    authority = Authority()
    stuck = TufVersions(root=1, timestamp=10**9, tuf_snapshot=10**9, targets=4)
    authority.rotate("timestamp")
    seen = offer(authority.evidence(RAW, version=5), pinned=authority.pinned, seen=stuck).versions
    for merged in (stuck.highest(seen), seen.highest(stuck)):
        assert merged == TufVersions(root=2, timestamp=5, tuf_snapshot=5, targets=5)
        assert offer(authority.evidence(RAW, version=6), pinned=authority.pinned, seen=merged)
        refused(
            Reason.METADATA_ROLLBACK,
            offer,
            authority.evidence(RAW, version=4),
            pinned=authority.pinned,
            seen=merged,
        )


def test_under_one_root_the_highest_version_of_each_role_counts() -> None:
    assert TufVersions(2, 9, 1, 4).highest(TufVersions(2, 3, 8, 4)) == TufVersions(2, 9, 8, 4)


def test_metadata_counts_as_seen_whatever_its_dates_and_its_manifest_are(authority: Authority) -> None:
    expired = dict.fromkeys(("timestamp", "snapshot", "targets"), NOW - timedelta(days=1))
    evidence = authority.evidence(b"{}", version=7, expires=expired)
    seen = TufVersions(1, 6, 7, 7)
    assert verify_metadata(evidence, pinned_root=authority.pinned, seen=seen) == TufVersions(1, 7, 7, 7)
    with pytest.raises(Rejected) as caught:
        verify_metadata(evidence, pinned_root=authority.pinned, seen=TufVersions(1, 8, 7, 7))
    assert caught.value.reason is Reason.METADATA_ROLLBACK
    with pytest.raises(Rejected) as caught:
        verify_metadata(evidence, pinned_root=Authority().pinned, seen=TufVersions())
    assert caught.value.reason is Reason.SIGNATURE


def test_a_rotation_that_was_seen_already_frees_nothing() -> None:
    authority = Authority()
    authority.rotate("timestamp")
    seen = TufVersions(root=2, timestamp=9)
    evidence = authority.evidence(RAW, version=5)
    refused(Reason.METADATA_ROLLBACK, offer, evidence, pinned=authority.pinned, seen=seen)


def test_roots_are_walked_from_the_pinned_one_wherever_the_chain_begins() -> None:
    authority = Authority()
    for roles in (("root",), ("timestamp", "targets"), ("root", "snapshot")):
        authority.rotate(*roles)
    evidence = authority.evidence(RAW)
    for pinned in authority.roots:
        assert offer(evidence, pinned=pinned).versions.root == 4
    headless = msgspec.structs.replace(evidence, root_chain=evidence.root_chain[1:])
    assert offer(headless, pinned=authority.roots[0]).versions.root == 4


def test_a_gap_in_the_root_chain_is_refused() -> None:
    authority = Authority()
    authority.rotate("root")
    authority.rotate("timestamp")
    evidence = authority.evidence(RAW)
    gap = msgspec.structs.replace(evidence, root_chain=(evidence.root_chain[0], evidence.root_chain[2]))
    refused(Reason.SIGNATURE, offer, gap, pinned=authority.pinned)
    leap = Authority()
    leap.rotate("timestamp", step=2)
    assert "from version 1 to 3" in refused(Reason.SIGNATURE, offer, leap.evidence(RAW), pinned=leap.pinned)


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_new_root_needs_the_signatures_of_both_the_old_and_the_new_keys(side: str) -> None:
    authority = Authority()
    old = authority.signers["root"][0]
    authority.rotate("root")
    only = old if side == "old" else authority.signers["root"][0]
    authority.roots[1] = signed(authority._root(2), only)
    refused(Reason.SIGNATURE, offer, authority.evidence(RAW), pinned=authority.pinned)


def test_a_chain_of_too_many_roots_is_refused_before_it_is_walked(authority: Authority) -> None:
    evidence = authority.evidence(RAW)
    long = msgspec.structs.replace(evidence, root_chain=(authority.pinned,) * (limits.ROOT_CHAIN_MAX + 1))
    refused(Reason.TOO_LARGE, offer, long, pinned=authority.pinned)


def test_a_damaged_pinned_root_is_named(authority: Authority) -> None:
    assert check_pinned_root(authority.pinned) == 1
    with pytest.raises(Rejected, match="the pinned root is not a TUF file"):
        check_pinned_root(authority.pinned[:-20])
    other = authority.pinned.replace(b'"version":1', b'"version":2')
    with pytest.raises(Rejected) as caught:
        check_pinned_root(other)
    assert caught.value.reason is Reason.SIGNATURE


def test_one_changed_byte_of_the_manifest_is_refused(authority: Authority) -> None:
    evidence = authority.evidence(RAW)
    changed = RAW.replace(b'"release":10', b'"release":11')
    assert len(changed) == len(RAW) and changed != RAW
    refused(Reason.SIGNATURE, offer, evidence, changed, pinned=authority.pinned)
    refused(Reason.SIGNATURE, offer, evidence, RAW + b" ", pinned=authority.pinned)


def test_a_manifest_signed_under_another_name_or_version_is_refused(authority: Authority) -> None:
    for path in (
        "manifests/tiny/2.0.0.json",
        "manifests/other/1.0.0.json",
        "tiny/1.0.0.json",
        "manifests/tiny",
    ):
        evidence = authority.evidence(RAW, path=path)
        message = refused(Reason.SIGNATURE, offer, evidence, pinned=authority.pinned)
        assert "another name" in message


def test_a_signed_manifest_that_is_malformed_is_refused_by_that_name(authority: Authority) -> None:
    for raw in (b"", b"null", b"{}", b"\xff", encode({**msgspec.to_builtins(a_manifest()), "release": 0})):
        evidence = authority.evidence(raw)
        refused(Reason.MALFORMED, offer, evidence, raw, pinned=authority.pinned)


def test_oversized_parts_are_refused_unread(authority: Authority) -> None:
    evidence = authority.evidence(RAW)
    huge = b"[" * (limits.METADATA_BYTES_MAX + 1)
    for field in FIELD.values():
        big = msgspec.structs.replace(evidence, **{field: huge})
        refused(Reason.TOO_LARGE, offer, big, pinned=authority.pinned)
    big_root = msgspec.structs.replace(evidence, root_chain=(huge,))
    refused(Reason.TOO_LARGE, offer, big_root, pinned=authority.pinned)
    manifest = b" " * (limits.MANIFEST_BYTES_MAX + 1)
    refused(Reason.TOO_LARGE, offer, evidence, manifest, pinned=authority.pinned)


def test_a_snapshot_for_another_slot_device_type_or_engine_is_refused(authority: Authority) -> None:
    evidence = authority.evidence(RAW)
    cases = [
        (DeviceProfile("x86_64", ("numpy",), frozenset({"other"})), Reason.WRONG_SLOT),
        (DeviceProfile("raspberry", ("numpy",), frozenset({"tiny"})), Reason.INCOMPATIBLE),
        (DeviceProfile("x86_64", ("paddle",), frozenset({"tiny"})), Reason.INCOMPATIBLE),
        (DeviceProfile("x86_64", (), frozenset({"tiny"})), Reason.INCOMPATIBLE),
    ]
    for device, reason in cases:
        message = refused(reason, offer, evidence, pinned=authority.pinned, device=device)
        assert "tiny" in message
    assert offer(evidence, pinned=authority.pinned, device=DeviceProfile("jetson", ("numpy",), DEVICE.models))
    raw = manifest_raw(compatible=("*",))
    anywhere = DeviceProfile("raspberry", ("numpy",), DEVICE.models)
    assert offer(authority.evidence(raw), raw, pinned=authority.pinned, device=anywhere)


def test_a_release_below_the_publishers_floor_is_refused_and_at_the_floor_taken(authority: Authority) -> None:
    at = authority.evidence(RAW, floors={"tiny": 10, "other": 99})
    assert offer(at, pinned=authority.pinned)
    below = authority.evidence(RAW, floors={"tiny": 11})
    assert "floor is 11" in refused(Reason.BELOW_FLOOR, offer, below, pinned=authority.pinned)
    assert verify_admitted(below, RAW, authority.pinned)  # admitted is admitted: rollback works in the worst hour


@pytest.mark.parametrize("floors", [[], 7, {"tiny": "9"}, {"tiny": True}, {"tiny": -1}, {"tiny": 2**60}])
def test_malformed_floors_are_refused(authority: Authority, floors: Any) -> None:
    evidence = authority.evidence(RAW, floors=floors)
    refused(Reason.MALFORMED, offer, evidence, pinned=authority.pinned)

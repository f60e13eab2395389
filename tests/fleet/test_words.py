"""What `fleet` says of devices and rollouts, from documents alone: times of one clock, reasons, and how it ended."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cloud_sync.client.documents import Device, HaltedBy, Ref, Rollout, Slot, TurnedAway
from cloud_sync.operator_cli.devices import ago, explain, troubles
from cloud_sync.operator_cli.following import judge, names_of, summary
from cloud_sync.operator_cli.output import printable
from cloud_sync.operator_cli.rollouts import failures
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.reasons import Reason

NOW = 1_900_000_000_000
ONE, TWO = "1" * 64, "2" * 64


def a_rollout(**changes: Any) -> Rollout:
    fields: dict[str, Any] = {
        "id": "r7", "model": "tiny", "version": "2.0.0", "digest": TWO, "strategy": "all", "kind": "rollout",
        "created_unix_ms": NOW, "state": "running", "devices": {"a": "done", "b": "fetching", "c": "offline"},
    }  # fmt: skip
    return Rollout(**{**fields, **changes})


def a_device(device_id: str = "a", slot: Slot | None = None, **changes: Any) -> Device:
    fields: dict[str, Any] = {
        "device_type": "x86_64", "agent_version": "0.1.0", "online": True, "last_heard_unix_ms": NOW,
        "models": {"tiny": slot or Slot(serving=True, active=Ref("1.0.0", ONE))},
    }  # fmt: skip
    return Device(device_id=device_id, **{**fields, **changes})


@pytest.mark.parametrize(
    ("before_ms", "says"),
    [(0, "0 s ago"), (-5_000, "0 s ago"), (1_999, "1 s ago"), (119_000, "119 s ago"), (120_000, "2 min ago"),
     (7_199_000, "119 min ago"), (7_200_000, "2 h ago"), (172_800_000, "2 d ago")],
)  # fmt: skip
def test_last_heard_is_told_as_a_time_that_has_passed(before_ms: int, says: str) -> None:
    assert ago(NOW - before_ms, NOW) == says


def test_a_device_that_was_never_heard_and_a_coordinator_without_a_clock_are_told_so() -> None:
    assert ago(None, NOW) == ago(0, NOW) == "never"
    assert ago(NOW, None) == "2030-03-17T17:46:40Z"


def test_a_rollout_that_is_done_is_no_trouble_also_while_a_device_is_away() -> None:
    assert judge(a_rollout(state="done", devices={"a": "done", "c": "offline"})) is None


def test_a_halted_rollout_names_the_device_its_reason_and_the_others() -> None:
    halted = a_rollout(
        state="halted", devices={"a": "failed", "b": "failed", "c": "done"}, halted_by=HaltedBy("a", "incompatible")
    )
    trouble = judge(halted)
    assert isinstance(trouble, Rejected) and trouble.reason is Reason.INCOMPATIBLE
    assert trouble.message == "rollout r7 (tiny@2.0.0) was halted: a turned it away: incompatible; failed on a, b"
    assert "fleet rollout status r7" in trouble.next_step and "fleet rollback tiny" in trouble.next_step


def test_a_word_that_this_version_does_not_know_is_passed_on_as_a_word() -> None:
    trouble = judge(a_rollout(state="halted", devices={"a": "failed"}, halted_by=HaltedBy("a", "of_tomorrow")))
    assert trouble is not None and trouble.reason is None and "of_tomorrow" in trouble.message


def test_done_with_a_failed_device_is_not_done() -> None:
    trouble = judge(a_rollout(state="done", devices={"a": "done", "b": "failed"}))
    assert isinstance(trouble, Rejected) and "it failed on b" in trouble.message


def test_a_superseded_rollout_says_so() -> None:
    trouble = judge(a_rollout(state="superseded"))
    assert isinstance(trouble, Unavailable) and trouble.reason is Reason.SUPERSEDED


def test_when_the_time_is_over_the_devices_that_are_waited_for_are_named() -> None:
    trouble = judge(a_rollout(), 5)
    assert isinstance(trouble, Unavailable)
    assert "is not done after 5 s (1 offline, 1 fetching, 1 done); offline: c; fetching: b" in trouble.message
    assert "--watch" in trouble.next_step


def test_many_devices_are_counted_not_listed() -> None:
    many = a_rollout(devices={f"d{number:03}": "failed" for number in range(300)})
    assert names_of(many, "failed") == "d000, d001, d002, d003, d004 and 295 more"
    assert summary(many) == "300 failed"
    assert summary(a_rollout(devices={"a": "of_tomorrow"})) == "1 of_tomorrow"
    assert summary(a_rollout(devices={})) == "no devices"


def test_a_device_as_it_should_be_has_no_troubles() -> None:
    assert list(troubles(a_device())) == []


def test_everything_that_is_not_as_it_should_be_is_told_with_its_reason() -> None:
    slot = Slot(
        serving=True,
        active=Ref("1.0.0", ONE),
        wanted=Ref("2.0.0", TWO),
        reason="crash_loop",
        declined=TurnedAway("2.1.0", "3" * 64, "disk_full", "12 MiB are left"),
        turned_away=(
            TurnedAway("", "4" * 64, "incompatible", "for jetson"),
            TurnedAway("2.0.0", TWO, "proof", "y", True),
        ),
        damaged=2,
    )
    device = a_device(slot=slot, storage="read_only", lost_reports=3)
    told = [(each.what, each.reason, each.detail) for each in troubles(device)]
    assert told == [
        ("state folder", "read_only", ""),
        ("reports", "lost", "3 never came: its outbox was full"),
        ("tiny", "crash_loop", "serves 1.0.0 instead of 2.0.0"),
        ("tiny", "damage", "2 snapshots have damaged bytes"),
        ("tiny@2.1.0", "disk_full", "12 MiB are left"),
        (f"tiny@{'4' * 12}", "incompatible", "for jetson"),
        ("tiny@2.0.0", "proof", "not tried again: y"),
    ]


def test_a_model_that_answers_nobody_is_told_first_of_all() -> None:
    (trouble,) = troubles(a_device(slot=Slot(serving=False, reason="ladder_exhausted")))
    assert (trouble.reason, trouble.detail) == ("ladder_exhausted", "answers nobody")


def test_each_device_is_quoted_with_its_own_reason_against_this_snapshot_alone() -> None:
    refuses = Slot(serving=True, turned_away=(TurnedAway("2.0.0", TWO, "proof", blocked=True),
                                              TurnedAway("1.5.0", "5" * 64, "signature")))  # fmt: skip
    declines = Slot(serving=True, declined=TurnedAway("2.0.0", TWO, "disk_full"))
    rollout = a_rollout(devices={"a": "failed", "b": "fetching", "c": "done"})
    fleet = tuple(
        a_device(name, slot) for name, slot in (("a", refuses), ("b", declines), ("c", refuses), ("d", refuses))
    )
    assert [(each.device_id, each.reason) for each in failures(rollout, fleet)] == [("a", "proof"), ("b", "disk_full")]


def test_each_word_is_explained_once_and_unknown_ones_not_at_all() -> None:
    console = Console(file=io.StringIO(), width=1000)
    explain(console, ("proof", "of_tomorrow", "proof"))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines == [f"proof: {Reason.PROOF.log_line}", f"  next step: {Reason.PROOF.next_step}"]


def test_text_of_a_device_cannot_drive_a_terminal() -> None:
    assert printable("a\x1b[2J\n\u202eb") == "a\ufffd[2J\ufffd\ufffdb"

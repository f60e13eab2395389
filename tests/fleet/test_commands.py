"""`fleet` against a real coordinator that has no devices: what is published, and each refusal with its next step."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fleet.conftest import FILES
from tests.fleet.stand import Operator
from tests.samples import a_manifest
from tests.tiny_model import write_tiny_model


def test_snapshots_of_the_coordinator_are_listed_and_shown(operator: Operator) -> None:
    listed = operator.document("snapshot", "list")
    assert [(row["name"], row["version"], row["release"]) for row in listed["snapshots"]] == [
        ("tiny", "1.0.0", 10),
        ("tiny", "1.1.0", 11),
    ]
    assert listed["expires"]
    shown = operator.document("snapshot", "show", "tiny@1.1.0")
    assert shown == listed["snapshots"][1]
    text = operator.run("snapshot", "list").stdout
    assert "tiny@1.1.0" in text and shown["digest"][:12] in text
    assert shown["digest"] in operator.run("snapshot", "show", "tiny@1.1.0").stdout


def test_a_repository_is_read_where_it_is_named_unless_the_coordinator_is_typed(operator: Operator) -> None:
    repository = operator.repository
    here = {"HOLDFAST_REPO": str(repository)}
    for of_repository in (("--repo", repository), ()):
        document = operator.document("snapshot", "list", *of_repository, **here)
        assert document["floors"] == {} and len(document["snapshots"]) == 2
    assert "manifest" in operator.document("snapshot", "show", "tiny@1.0.0", **here)
    asked = ("--coordinator", operator.town.url)
    assert "floors" not in operator.document("snapshot", "list", *asked, **here)
    assert "manifest" not in operator.document("snapshot", "show", "tiny@1.0.0", *asked, **here)
    assert "floors" in operator.document("snapshot", "list", *asked, "--repo", repository)


def test_a_snapshot_that_was_never_published_is_answered_with_those_that_are_near(
    operator: Operator,
) -> None:
    for wish in (
        ("snapshot", "show", "tiny@1.1"),
        ("rollout", "start", "tiny", "--to", "1.1"),
        ("rollback", "tiny", "--to", "1.1"),
        ("rollout", "start", "tiny", "--to", "1.1", "--wait", "5", "--strategy", "one"),
    ):
        refused = operator.document(*wish, code=1)
        assert (refused["ok"], refused["reason"]) == (False, "unknown_version"), refused
        assert "1.1.0" in refused["message"] + refused["next_step"]
        people = operator.run(*wish, code=1)
        assert people.stderr.startswith("refused (unknown_version): ") and people.stdout == ""
        assert "1.1.0" in people.stderr and len(people.stderr.splitlines()) == 2


def test_a_model_whose_name_is_mistyped_is_answered_with_the_right_one(operator: Operator) -> None:
    for command in (("rollout", "start"), ("rollback",)):
        refused = operator.document(*command, "tinny", "--to", "1.0.0", code=1)
        assert refused["reason"] == "unknown_version" and "near: tiny" in refused["message"]


def test_a_rollout_that_would_reach_nobody_is_refused(operator: Operator) -> None:
    refused = operator.document("rollout", "start", "tiny", "--to", "1.1.0", code=1)
    assert refused["reason"] == "no_devices" and "fleet devices list" in refused["next_step"]
    assert operator.document("rollback", "tiny", "--to", "1.0.0", code=1)["reason"] == "no_devices"
    assert operator.document("rollout", "status")["rollouts"] == []


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("shadow=60", "Did you mean shadow_s?"),
        ("shadow_s", "Did you mean shadow_s?"),
        ("shadow_s=soon", "Write for example shadow_s=60"),
        ("error_percent_max=101", "error_percent_max"),
        ("share_percents=[0]", "share_percents"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_what_could_be(operator: Operator, word: str, says: str) -> None:
    refused = operator.run("rollout", "start", "digits", "--to", "1.1.0", "--policy", word, code=1)
    assert says in refused.stderr


def test_devices_and_rollouts_that_nobody_knows_are_refused(operator: Operator) -> None:
    assert operator.document("devices", "show", "kiosk-7", code=1)["reason"] == "unknown_device"
    assert operator.document("devices", "show", "../snapshots", code=1)["reason"] == "unknown_device"
    named = operator.document("rollout", "start", "tiny", "--to", "1.0.0", "--device", "kiosk-7", code=1)
    assert named["reason"] in ("unknown_device", "no_devices")
    unknown = operator.document("rollout", "status", "7", code=1)
    assert unknown["ok"] is False and unknown["next_step"]
    none_yet = operator.document("rollout", "status", "--watch", code=1)
    assert "fleet rollout start" in none_yet["next_step"]


def test_a_fleet_without_devices_is_an_empty_table(operator: Operator) -> None:
    document = operator.document("devices", "list")
    assert document["devices"] == [] and document["coordinator_unix_ms"] > 0
    assert operator.run("devices", "list").stdout.split() == [
        "device", "type", "online", "last", "heard", "model", "serves", "candidate", "assigned",
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["wrong", "a" * 4000])
def test_a_wrong_token_is_refused_by_every_command(content: str, operator: Operator, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text(content)
    folder = operator.repository
    for command in (
        ("snapshot", "list"),
        ("snapshot", "publish", "--all", "--repo", folder),
        ("devices", "list"),
        ("rollout", "start", "tiny", "--to", "1.0.0"),
        ("rollout", "status"),
        ("rollback", "tiny", "--to", "1.0.0"),
        ("resume",),
    ):
        refused = operator.document(*command, code=1, HOLDFAST_TOKEN_FILE=str(wrong))
        assert refused["reason"] == "not_authorized" and refused["next_step"], command


def test_resume_where_nothing_is_stopped_changes_nothing(operator: Operator) -> None:
    assert operator.document("resume") == {"planning": {"stopped": None}}
    assert "plans again" in operator.run("resume").stdout


def test_publishing_packs_and_uploads_in_one(operator: Operator, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", name="other", version="1.0.0", release=1)
    here = ("--repo", operator.repository)
    done = operator.document("snapshot", "publish", folder, *here)
    assert (done["name"], done["unchanged"], done["uploaded"]["manifests"]) == ("other", False, 1)
    assert operator.document("snapshot", "show", "other@1.0.0")["digest"] == done["digest"]
    again = operator.run("snapshot", "publish", folder, *here)
    assert "nothing to do" in again.stdout and "0 of " in again.stdout and "proving" not in again.stderr


def test_metadata_that_has_expired_is_uploaded_with_a_warning(operator: Operator) -> None:
    publisher = operator.town.publisher
    publisher.publish_manifest(a_manifest(name="old"), FILES, now=datetime(2020, 1, 1, tzinfo=UTC))
    upload = ("snapshot", "publish", "--all", "--repo", operator.repository)
    assert "Run `fleet refresh`" in operator.run(*upload).stderr
    assert operator.document("refresh", "--repo", operator.repository)["expires"] > "2026"
    fresh = operator.document(*upload)["uploaded"]
    assert (fresh["chunks"], fresh["manifests"]) == (0, 0) and fresh["expires"] > "2026"
    assert "refresh" not in operator.run(*upload).stderr


def test_publishing_nothing_or_two_things_or_without_keys_is_wrong_usage(operator: Operator) -> None:
    for arguments in ((), ("model", "--all")):
        assert "--all" in operator.run("snapshot", "publish", *arguments, "--repo", "r", code=2).stderr
    result = operator.run("snapshot", "publish", "model", "--repo", "r", code=2, HOLDFAST_KEYS="")
    assert "--keys" in result.stderr


def test_the_token_of_a_device_is_alone_on_stdout_also_before_it_ever_came(operator: Operator) -> None:
    document = operator.document("devices", "token", "kiosk-7")
    assert operator.run("devices", "token", "kiosk-7").stdout == document["token"] + "\n"
    assert document["device_id"] == "kiosk-7" and len(document["token"]) == 43
    refused = operator.document("devices", "token", "kiosk 7", code=1)
    assert refused["reason"] == "malformed" and "kiosk 7" in refused["message"]

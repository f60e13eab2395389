"""The command `fleet` as an operator meets it: real processes, exit codes, one JSON document, and what errors say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cloud_sync.operator_cli.main import main as fleet
from tests.tiny_model import write_tiny_model


class Fleet:
    """Runs `fleet` with keys and repository in a folder."""

    def __init__(self, folder: Path) -> None:
        self.env = {"HOLDFAST_KEYS": str(folder / "keys"), "HOLDFAST_REPO": str(folder / "repo")}

    def run(self, *arguments: str | Path, code: int = 0) -> Result:
        result = CliRunner(env=self.env).invoke(fleet, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    def document(self, *arguments: str | Path, code: int = 0) -> Any:
        """stdout as JSON: fails when there is anything else on it."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def operator(tmp_path: Path) -> Fleet:
    fleet_command = Fleet(tmp_path)
    fleet_command.run("keys", "init")
    return fleet_command


def test_the_way_from_keys_to_a_bundle(operator: Fleet, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    packed = operator.document("snapshot", "pack", folder)
    assert (packed["name"], packed["version"], packed["unchanged"]) == ("tiny", "1.0.0", False)
    assert packed["proofs"][0]["engine"] == "numpy" and packed["proofs"][0]["vectors"] == 3
    assert operator.document("snapshot", "pack", folder)["unchanged"] is True
    listed = operator.document("snapshot", "list")["snapshots"]
    assert [(row["name"], row["digest"]) for row in listed] == [("tiny", packed["digest"])]
    bundle = tmp_path / "tiny.bundle"
    assert operator.document("bundle", "tiny@1.0.0", "--out", bundle)["bytes"] == bundle.stat().st_size
    for what in ("tiny@1.0.0", bundle):
        shown = operator.document("snapshot", "show", what)
        assert shown["digest"] == packed["digest"] and shown["manifest"]["golden"]["count"] == 3
    assert operator.document("refresh")["metadata"]["timestamp"] == 2


def test_people_get_words(operator: Fleet, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    packed = operator.run("snapshot", "pack", folder)
    assert "3 golden vectors reproduced" in packed.stdout and "tiny@1.0.0 published" in packed.stdout
    assert "proving tiny@1.0.0 with numpy" in packed.stderr
    assert "nothing to do" in operator.run("snapshot", "pack", folder).stdout
    assert "tiny@1.0.0" in operator.run("snapshot", "list").stdout
    shown = operator.run("snapshot", "show", "tiny@1.0.0").stdout
    assert "FP32" in shown and "golden/x.npy" in shown
    assert "good until" in operator.run("bundle", "tiny@1.0.0", "--out", tmp_path / "b").stdout
    assert "good until" in operator.run("refresh").stdout


def test_a_refusal_says_why_and_what_to_do_with_exit_code_one(operator: Fleet, tmp_path: Path) -> None:
    without = write_tiny_model(tmp_path / "without", golden=None)
    result = operator.run("snapshot", "pack", without, code=1)
    lines = result.stderr.strip().splitlines()
    assert lines[-2].startswith("refused (malformed): the model folder") and lines[-1].startswith("next step: ")
    assert result.stdout == ""
    document = operator.document("snapshot", "pack", without, code=1)
    assert document["reason"] == "malformed" and document["next_step"]
    operator.run("snapshot", "pack", write_tiny_model(tmp_path / "one"))
    other = write_tiny_model(tmp_path / "other", seed=2)
    assert operator.document("snapshot", "pack", other, code=1)["reason"] == "version_conflict"
    unknown = operator.document("bundle", "tiny@1.0.1", "--out", tmp_path / "b", code=1)
    assert "tiny@1.0.0" in unknown["next_step"]
    assert "has keys already" in operator.run("keys", "init", code=1).stderr
    noise = tmp_path / "noise.bundle"
    noise.write_bytes(bytes(1000))
    assert "is not a Holdfast bundle" in operator.run("snapshot", "show", noise, code=1).stderr


def test_wrong_usage_is_exit_code_two(tmp_path: Path) -> None:
    plain = Fleet(tmp_path)
    plain.env = {"HOLDFAST_KEYS": "", "HOLDFAST_REPO": ""}
    plain.run("keys", "init", code=2)
    plain.run("bundle", "a@1", "--repo", tmp_path, code=2)
    plain.run("snapshot", "show", "a@1", code=2)
    plain.run("nonsense", code=2)
    arguments = ("snapshot", "pack", tmp_path, "--keys", tmp_path, "--repo", tmp_path)
    assert "ENGINE=PATH" in plain.run(*arguments, "--engine-python", "paddle", code=2).stderr


def test_a_coordinator_is_authorised_once(operator: Fleet, tmp_path: Path) -> None:
    public = tmp_path / "coordinator.pub"
    public.write_text("ab" * 32 + "\n")
    first = operator.document("coordinator", "authorize", public)
    assert (first["epoch"], first["public_key"], first["unchanged"]) == (1, "ab" * 32, False)
    assert operator.document("coordinator", "authorize", public)["unchanged"] is True
    assert "epoch 1" in operator.run("coordinator", "authorize", public).stdout
    assert operator.document("snapshot", "list")["snapshots"] == []
    public.write_text("no key")
    assert operator.document("coordinator", "authorize", public, code=1)["reason"] == "malformed"


def test_help_names_the_groups() -> None:
    told = CliRunner().invoke(fleet, ["--help"]).stdout
    assert "bundle" in told and "rollout" in told


def test_the_command_runs_as_a_process_of_its_own_with_json_alone_on_stdout(operator: Fleet, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloud_sync.operator_cli", "snapshot", "pack", "--json", "model"],
        cwd=write_tiny_model(tmp_path / "model").parent,
        env={**os.environ, **operator.env, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["version"] == "1.0.0"


def test_of_the_devices_code_the_cloud_imports_the_contract_alone() -> None:
    code = (
        "import sys, cloud_sync.operator_cli.main, cloud_sync.cli; print(*[m for m in sys.modules if m[:4] == 'edge'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for module in done.stdout.split():
        assert module == "edge_agent" or module.startswith("edge_agent.contract"), module

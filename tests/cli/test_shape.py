"""What all commands have in common: help, --json, and the exit codes that scripts rely on."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from cloud_sync.cli import main as cloud_sync
from cloud_sync.operator_cli.main import main as fleet
from edge_agent.cli import main as edge_agent
from tests.cli.command import document, leaves, run

COMMANDS = {"edge-agent": edge_agent, "fleet": fleet, "cloud-sync": cloud_sync}
LEAVES = [(name, path, leaf) for name, group in COMMANDS.items() for path, leaf in leaves(group)]
NAMES = [f"{name} {' '.join(path)}" for name, path, _ in LEAVES]
WITHOUT_JSON = {"edge-agent run", "cloud-sync serve"}  # they run on; their log lines are JSON already


def test_the_commands_are_the_agreed_ones() -> None:
    here = {name for name in NAMES if name.startswith("edge-agent")}
    agreed = (
        "run",
        "import",
        "status",
        "history",
        "verify",
        "rollback",
        "pin",
        "unpin",
        "diagnose",
        "doctor",
        "factory",
    )
    assert here == {f"edge-agent {word}" for word in agreed}
    here = {name for name in NAMES if name.startswith("fleet")}
    agreed = (
        "keys init", "snapshot pack", "snapshot publish", "snapshot list", "snapshot show", "bundle", "refresh",
        "minimum", "coordinator authorize", "devices list", "devices show", "devices token", "rollout start",
        "rollout status", "rollback", "resume",
    )  # fmt: skip
    assert here == {f"fleet {word}" for word in agreed}
    here = {name for name in NAMES if name.startswith("cloud-sync")}
    assert here == {f"cloud-sync {word}" for word in ("init", "migrate", "serve")}


@pytest.mark.parametrize(("name", "path", "leaf"), LEAVES, ids=NAMES)
def test_every_command_has_help_json_and_a_usage_error(name: str, path: tuple[str, ...], leaf: click.Command) -> None:
    group = COMMANDS[name]
    assert leaf.help and leaf.help.split(".")[0] in " ".join(run(group, *path, "--help").stdout.split())
    options = {option for parameter in leaf.params for option in parameter.opts}
    assert ("--json" in options) is (f"{name} {' '.join(path)}" not in WITHOUT_JSON)
    wrong = run(group, *path, "--no-such-option", code=2)
    assert wrong.stdout == "" and "--no-such-option" in wrong.stderr and "--help" in wrong.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_at_all_is_wrong_usage_and_shows_what_there_is(name: str) -> None:
    result = run(COMMANDS[name], code=2)
    assert "Commands:" in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("import",), "BUNDLE"),
        (("import", "b", "--wait-s", "-1"), "--wait-s"),
        (("history", "--newest", "0"), "--newest"),
        (("history", "--newest", "many"), "--newest"),
        (("rollback",), "MODEL"),
        (("factory", "b"), "--out"),
        (("stauts",), "stauts"),
    ],
)
def test_wrong_usage_names_the_argument(arguments: tuple[str, ...], word: str) -> None:
    result = run(edge_agent, *arguments, code=2)
    assert word in result.stderr and result.stdout == ""


@pytest.mark.parametrize(("name", "path", "leaf"), LEAVES, ids=NAMES)
def test_refusals_of_all_commands_have_one_shape(
    name: str, path: tuple[str, ...], leaf: click.Command, tmp_path: Path
) -> None:
    """Whatever is missing, --json gives one document with the same keys, and people a message and a next step."""
    missing = tmp_path / "missing"
    values = {"bundle_path": missing, "out": tmp_path / "out", "model": "m", "model_folder": missing,
              "label": "m@1", "what": missing, "file": missing, "version": "1", "device_id": "d",
              "coordinator_url": "http://127.0.0.1:1", "token_file": missing, "keys": "/proc/no/keys", "repo": missing,
              "config_path": missing, "data": missing, "root": missing, "broker": "127.0.0.1:1"}  # fmt: skip
    arguments: list[object] = [*path]
    for parameter in leaf.params:
        if parameter.name in values:
            is_option = isinstance(parameter, click.Option)
            arguments += [parameter.opts[0], values[parameter.name]] if is_option else [values[parameter.name]]
    told = run(COMMANDS[name], *arguments, code=1)
    assert told.stdout == "" and len(told.stderr.strip().splitlines()) >= 2, "a message and a next step"
    if f"{name} {' '.join(path)}" in WITHOUT_JSON:
        return
    refused = document(COMMANDS[name], *arguments, code=1)
    assert set(refused) == {"ok", "reason", "message", "next_step"}
    assert refused["ok"] is False and refused["message"] and refused["next_step"]

"""Pages that must say what the code does: README's commands, keys and paths, the generated pages, the service unit."""

from __future__ import annotations

import configparser
import dataclasses
import re
import shlex
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from cloud_sync.cli import main as cloud_sync
from cloud_sync.operator_cli.main import main as fleet
from edge_agent.cli import main as edge_agent
from edge_agent.config import Config, EngineSettings, ModelSettings, load_config
from edge_agent.contract import limits
from edge_agent.contract.policy import Policy
from edge_agent.core.rules import Rules
from tests.harness.agent import ROOT
from tests.tools import demo_picture, lifecycle_doc

README = (ROOT / "README.md").read_text(encoding="utf-8")
UNIT = ROOT / "packaging" / "systemd" / "holdfast-agent.service"
DECISIONS = ROOT / "docs" / "decisions"
GROUPS = {"edge-agent": edge_agent, "fleet": fleet, "cloud-sync": cloud_sync}
PICTURE_BYTES_MAX = 60_000


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def settings() -> str:
    """agent.toml as README shows it, with the keys in force that it leaves out at first."""
    (text,) = blocks("toml")
    return re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)


def command_lines() -> Iterator[list[str]]:
    """Every call of `edge-agent`, `fleet` and `cloud-sync` in README, in blocks and in running text, as words."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"`((?:edge-agent|fleet|cloud-sync) [^`]+)`", README)
    for line in lines:
        found = re.search(r"(?:^|[\s/])(edge-agent|fleet|cloud-sync) .*", line)
        if found:
            words = shlex.split(found[0].strip().lstrip("/"), comments=True)
            yield words[
                : min(
                    (words.index(mark) for mark in ("&", "2>agent.log", "2>coordinator.log") if mark in words),
                    default=None,
                )
            ]


def test_each_command_in_the_readme_exists_with_its_options() -> None:
    seen = set()
    for words in command_lines():
        command: click.Command = GROUPS[words[0]]
        rest = words[1:]
        while isinstance(command, click.Group):
            assert rest and rest[0] in command.commands, f"README names {' '.join(words)}"
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        unknown = {word for word in rest if word.startswith("--")} - options
        assert not unknown, f"README gives {unknown} to {' '.join(words)}"
        seen.add(command.name)
    described = {
        "init",
        "pack",
        "show",
        "bundle",
        "factory",
        "doctor",
        "run",
        "import",
        "status",
        "history",
        "verify",
        "rollback",
        "authorize",
        "serve",
        "publish",
        "start",
        "list",
    }
    assert described <= seen, "README shows how to use each of these"


def test_the_settings_in_the_readme_are_all_settings_and_are_taken(tmp_path: Path) -> None:
    text = settings()
    (tmp_path / "agent.toml").write_text(text)
    config = load_config(tmp_path / "agent.toml")
    document = tomllib.loads(text)
    assert set(document) == {field.name for field in msgspec.structs.fields(Config)}
    for name in ("serving", "limits", "scrub", "sync"):
        fields = {field.name for field in msgspec.structs.fields(getattr(config, name))}
        assert set(document[name]) == fields, f"[{name}]"
    assert set(document["models"]["digits"]) == {field.name for field in msgspec.structs.fields(ModelSettings)}
    assert set(document["engines"]["paddle"]) == {field.name for field in msgspec.structs.fields(EngineSettings)}


def test_the_defaults_in_the_readme_are_the_defaults(tmp_path: Path) -> None:
    text = settings()
    (tmp_path / "agent.toml").write_text(text)
    shown = load_config(tmp_path / "agent.toml")
    plain = Config(state_dir="", models={"digits": ModelSettings()}, trusted_root="")
    assert (shown.serving, shown.limits, shown.scrub) == (plain.serving, plain.limits, plain.scrub)
    own = ("factory", *Policy.__struct_fields__)  # a policy is short there, and its defaults are in the comments
    assert msgspec.structs.replace(shown.models["digits"], **dict.fromkeys(own)) == plain.models["digits"]
    said = re.findall(r"^(\w+) = .*# default (\[.*?\]|[\w.]+)", text, re.MULTILINE)
    defaults = {name: tomllib.loads(f"value = {value}")["value"] for name, value in said}
    assert msgspec.convert(defaults, Policy) == Policy(**dataclasses.asdict(Rules()))
    assert shown.log_level == plain.log_level


def test_what_the_readme_points_to_is_there() -> None:
    named = re.findall(r"`((?:edge_agent|cloud_sync|docs|tests|models|packaging|requirements)/[\w./-]*)`", README)
    linked = re.findall(r"\]\(([\w./-]+)\)", README)
    assert len(named) > 15
    missing = [path for path in named + linked if not (ROOT / path).exists()]
    assert not missing


def test_the_lifecycle_page_is_what_the_tables_say() -> None:
    there = lifecycle_doc.DOCUMENT.read_text(encoding="utf-8")
    assert there == lifecycle_doc.document(), "run: .venv/bin/python -m tests.tools.lifecycle_doc"


def test_the_picture_is_small_whole_and_of_a_run_that_held() -> None:
    content = demo_picture.PICTURE.read_bytes()
    assert len(content) < PICTURE_BYTES_MAX
    words = " ".join(ElementTree.fromstring(content).itertext())
    assert "mismatches 0, failed requests 0" in words
    held = re.search(r"steps that held (\d+) of (\d+)", words)
    assert held and held[1] == held[2]


def test_the_picture_is_drawn_from_a_report() -> None:
    report = (
        '<div class="big"><div><b>7</b>requests</div></div><span><i style="background:#123abc"></i>1.0</span>'
        '<svg viewBox="0 0 100 50" role="img"><rect x="1"/></svg>'
    )
    drawn = demo_picture.picture(report)
    words = " ".join(ElementTree.fromstring(drawn).itertext())
    assert "requests 7" in words and "answers from 1.0" in words
    with pytest.raises(ValueError, match="no timeline"):
        demo_picture.picture("<html>")


def test_decisions_are_listed_and_complete() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    records = sorted(DECISIONS.glob("[0-9]*.md"))
    assert len(records) >= 8
    for record in records:
        text = record.read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix("# ")
        assert title.startswith(record.name[:4] + ": "), record.name
        assert f"]({record.name})" in index, f"{record.name} is not in the index"
        for heading in ("Context", "Decision", "Consequences", "Rejected"):
            assert f"\n## {heading}\n" in text, f"{record.name} has no {heading}"
    assert set(re.findall(r"\]\((\S+\.md)\)", index)) == {record.name for record in records}


def service_of(unit_file: Path) -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(unit_file.read_text(encoding="utf-8"))
    return unit["Service"]


def test_the_coordinators_service_runs_a_real_command_with_options_that_there_are() -> None:
    service = service_of(UNIT.with_name("holdfast-coordinator.service"))
    words = service["ExecStart"].split()
    assert words[0].endswith("/bin/cloud-sync") and words[1] == "serve"
    options = {option for parameter in cloud_sync.commands["serve"].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_the_service_runs_a_real_command_and_waits_long_enough_at_a_stop() -> None:
    service = service_of(UNIT)
    words = service["ExecStart"].split()
    assert words[0].endswith("/bin/edge-agent") and words[1] in edge_agent.commands
    assert (service["Restart"], service["KillMode"], service["OOMPolicy"]) == ("always", "process", "continue")
    assert float(service["TimeoutStopSec"]) > limits.STOP_S

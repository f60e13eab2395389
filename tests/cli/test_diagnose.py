"""`edge-agent diagnose`: everything that is needed, also of an agent that is down or hangs, and no secret."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

from edge_agent.cli import main
from edge_agent.redaction import without_secrets
from tests.cli.command import document
from tests.harness.fixtures import NewAgent

SECRETS = {name: f"hidden-{name}-4711" for name in ("password", "token", "environment", "logged", "key")}


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.removeprefix("holdfast/")] = file.read().decode()
        return found


def diagnosed(agent: Any, out: Path, **env: str) -> tuple[dict[str, Any], dict[str, str]]:
    told = document(main, "diagnose", "--config", agent.config_file, "--out", out, env=env)
    return told, contents(out)


def test_it_holds_what_is_asked_first_and_no_secret(new_agent: NewAgent, short_folder: Path, tmp_path: Path) -> None:
    files = {name: short_folder / f"{name}.txt" for name in ("password", "token", "key")}
    for name, path in files.items():
        path.write_text(SECRETS[name] + "\n")
    pem = f"-----BEGIN PRIVATE KEY-----\n{SECRETS['key']}\n-----END PRIVATE KEY-----\n"
    files["key"].write_text(pem)
    sync = {"broker": "127.0.0.1:1", "password_file": str(files["password"]), "http": "http://127.0.0.1:1",
            "http_token_file": str(files["token"]), "key_file": str(files["key"]), "cert_file": "none"}  # fmt: skip
    agent = new_agent(sync=sync).start_and_wait()
    with agent.log_file.open("a") as log:
        log.write(json.dumps({"event": "x", "mqtt_password": SECRETS["logged"], "said": SECRETS["password"]}) + "\n")
        log.write(f"Authorization: Bearer {SECRETS['logged']}\nhttp://u:{SECRETS['logged']}@host/\n{pem}")
    told, parts = diagnosed(agent, tmp_path / "d.tar.gz", HOLDFAST_TEST_TOKEN=SECRETS["environment"])
    assert told["missing"] == []
    for name, text in parts.items():
        for secret in SECRETS.values():
            assert secret not in text, f"{name} holds {secret}"
    assert "HOLDFAST_TEST_TOKEN" in parts["environment.txt"] and "agent_up" in parts["log.txt"]
    assert json.loads(parts["status.json"])["models"]["tiny"]["serving"] is True
    assert json.loads(parts["models_db.json"])["check"] == ["ok"]
    assert json.loads(parts["agent_db.json"])["user_version"] == 1
    assert any(process["runtime"] for process in json.loads(parts["processes.json"]))
    assert '"kind": "serving"' in parts["journal.jsonl"]


def test_an_agent_that_hangs_costs_its_own_words_alone(new_agent: NewAgent, tmp_path: Path) -> None:
    agent = new_agent().start_and_wait()
    runtime = agent.status()["processes"]["runtime"]
    os.kill(runtime, signal.SIGSTOP)
    try:
        told, parts = diagnosed(agent, tmp_path / "d.tar.gz")
    finally:
        os.kill(runtime, signal.SIGCONT)
    assert told["missing"] == ["status.json"]
    stopped = [process for process in json.loads(parts["processes.json"]) if process["runtime"]]
    assert [process["State"][0] for process in stopped] == ["T"]


def test_an_agent_that_is_down_and_its_history(new_agent: NewAgent, tmp_path: Path) -> None:
    agent = new_agent().start_and_wait()
    agent.stop()
    _, parts = diagnosed(agent, tmp_path / "d.tar.gz")
    assert "no agent runs" in parts["status.json"] and '"kind": "serving"' in parts["journal.jsonl"]
    done = agent.cli("history", "tiny")
    assert done.returncode == 0 and "tiny 0.9.0: serves" in done.stdout and "no agent runs" in done.stderr


def test_an_archive_that_is_there_is_not_overwritten(new_agent: NewAgent, tmp_path: Path) -> None:
    agent = new_agent()
    (tmp_path / "d").write_text("mine")
    refused = document(main, "diagnose", "--config", agent.config_file, "--out", tmp_path / "d", code=1)
    assert "--out" in refused["next_step"] and (tmp_path / "d").read_text() == "mine"


def test_what_stands_beside_a_telling_name_is_taken_out() -> None:
    for text in ("password=hunter22", '"http_token": "hunter22"', "secret: hunter22", "https://a:hunter22@b/"):
        assert "hunter22" not in without_secrets(text, ()), text
    assert without_secrets("phase proven, digest abc", ()) == "phase proven, digest abc"


def test_a_log_of_long_words_is_searched_in_no_time() -> None:
    began_s = time.monotonic()
    for word in ("a", "token", "token-", 'password:"', "://", "-----BEGIN ", "basic "):
        without_secrets(word * (1 << 15), ())
    assert time.monotonic() - began_s < 5.0


def test_a_secret_is_found_as_json_writes_it_and_in_json_inside_of_json() -> None:
    secret = 'pa"ss\\wörd-4711'
    for text in (json.dumps({"said": secret}), json.dumps({"said": secret}, ensure_ascii=False)):
        assert "4711" not in without_secrets(text, (secret,))
    assert "4711" not in without_secrets(json.dumps({"password": 'some"4711'}), ())
    assert "4711" not in without_secrets(json.dumps({"detail": json.dumps({"mqtt_password": "some4711"})}), ())
    assert "4711" not in without_secrets("mqtt://user:p@4711@host/", ())

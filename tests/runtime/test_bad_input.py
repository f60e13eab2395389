"""Bad input to a device: each has a clear message that says what to do, the right exit code, and nothing is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.agent import Agent, wait_until
from tests.harness.fixtures import NewAgent
from tests.harness.releases import Releases
from tests.publishing import chunk_replaced, for_device_type, signature_flipped, signed_by_stranger, truncated, zeros


def refused(agent: Agent, *words: str, command: tuple[str, ...] = ("run",), code: int = 1) -> str:
    done = agent.cli(*command, timeout_s=30)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    for word in words:
        assert word in done.stderr, f"{word!r} is not in: {done.stderr}"
    assert "Traceback" not in done.stderr
    assert "->" in done.stderr, f"no next step in: {done.stderr}"
    return done.stderr


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ("[serving]", "[serving]\nhtpp = 1", "htpp"),
        ('device_id = "d"', "device_id = 7", "device_id"),
        ("[serving]", "[serving]\nqueue_max = -1", "queue_max"),
        ("[serving]", "[[serving]", "not TOML"),
        ('http = "127.0.0.1:0"', 'http = "nowhere"', "host:port"),
        ('http = "127.0.0.1:0"', 'http = "0.0.0.0:0"', "loopback"),
        ("[models.tiny]", "[models.Tiny_]", "models"),
        *(
            ("[serving]", f"[sync]\n{settings}\n[serving]", word)
            for settings, word in (
                ('broker = "127.0.0.1:1"\nhttp = "http://10.0.0.1"\nhttp_token_file = "t"', "without TLS"),
                ('broker = "127.0.0.1:1"\nhttp = "ftp://10.0.0.1"\nhttp_token_file = "t"', "no address"),
                ('broker = "127.0.0.1:1"\nhttp = "https://"\nhttp_token_file = "t"', "no address"),
                ('broker = "127.0.0.1:1"\nhttp = "https://a:b@c.example"\nhttp_token_file = "t"', "no address"),
                ('broker = "127.0.0.1:1"\nhttp = "https://c.example:x"\nhttp_token_file = "t"', "no address"),
                ('broker = "127.0.0.1:1"\nhttp = "https://c.example"', "http_token_file"),
                ('http = "https://c.example"\nhttp_token_file = "t"', "without a broker"),
            )
        ),
    ],
)
def test_wrong_settings_name_the_key(new_agent: NewAgent, before: str, after: str, word: str) -> None:
    agent = new_agent(factory=None)
    text = agent.config_file.read_text()
    assert before in text
    agent.config_file.write_text(text.replace(before, after, 1))
    refused(agent, word)


def test_a_missing_settings_file_and_a_wrong_option(new_agent: NewAgent) -> None:
    agent = new_agent(factory=None)
    agent.config_file.unlink()
    refused(agent, "agent.toml")
    assert agent.cli("run", "--no-such-option").returncode == 2


def test_a_state_folder_that_cannot_be_made(new_agent: NewAgent) -> None:
    agent = new_agent(factory=None)
    agent.config_file.write_text(agent.config_file.read_text().replace(str(agent.state_dir), "/proc/holdfast"))
    refused(agent, "cannot be written")


def test_a_taken_port(new_agent: NewAgent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        agent = new_agent(factory=None, serving={"http": f"127.0.0.1:{taken.getsockname()[1]}"})
        refused(agent, "cannot listen", "ss -ltnp")


def test_two_agents_on_one_state_folder(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    refused(agent, "another agent runs")
    assert agent.model("tiny")["serving"]


def test_a_root_that_is_none(new_agent: NewAgent, short_folder: Path) -> None:
    agent = new_agent(factory=None)
    wrong = short_folder / "root.json"
    for content in (b"", b"{}", b"\x00" * 100, b'{"signed": 1}'):
        wrong.write_bytes(content)
        text = agent.config_file.read_text().splitlines()
        agent.config_file.write_text(
            "\n".join(f'trusted_root = "{wrong}"' if line.startswith("trusted_root") else line for line in text)
        )
        refused(agent)


def test_no_engine_in_the_workers_interpreter(new_agent: NewAgent, short_folder: Path, releases: Releases) -> None:
    bare = short_folder / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    agent = new_agent()
    agent.config_file.write_text(agent.config_file.read_text().replace(sys.executable, str(bare / "bin" / "python")))
    refused(agent, "engine", command=("doctor",))
    agent.start()
    wait_until(agent.status_or_none, "the agent answers")
    done = agent.cli("import", str(releases.all["1.0.0"].bundle), "--json")
    assert (done.returncode, json.loads(done.stdout)["reason"]) == (1, "engine_missing"), done.stderr
    assert "edge-agent doctor" in done.stderr, "what to do"
    model = agent.wait_model("tiny", lambda m: m["status"] == "down", "nothing serves")
    assert model["quarantined"] == [], "a missing engine is not the snapshot's fault"


def test_rollback_to_what_is_not_there(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    refused(agent, "7.7.7", "0.9.0", command=("rollback", "tiny", "--to", "7.7.7"))
    refused(agent, "no other confirmed", command=("rollback", "tiny"))
    refused(agent, "runs no model", "tiny", command=("rollback", "nose"))
    assert agent.model("tiny")["active"]["version"] == "0.9.0"


def test_commands_without_an_agent(new_agent: NewAgent) -> None:
    agent = new_agent(factory=None)
    for command in (("status",), ("history",), ("verify",), ("rollback", "tiny")):
        refused(agent, "no agent runs", command=command)


def hostile_bundles(releases: Releases, folder: Path) -> dict[str, Path]:
    good = releases.all["1.1.0"].bundle
    empty = folder / "empty"
    empty.write_bytes(b"")
    noise = folder / "noise"
    noise.write_bytes(os.urandom(100_000))
    return {
        "truncated": truncated(good, folder / "truncated", good.stat().st_size // 2),
        "empty": empty,
        "noise": noise,
        "signature": signature_flipped(good, folder / "signature"),
        "stranger": signed_by_stranger(good, folder / "stranger"),
        "chunk": chunk_replaced(good, folder / "chunk"),
        "zeros": zeros(folder / "zeros"),
        "missing": folder / "no-such-file",
    }


def test_hostile_bundles_change_nothing(new_agent: NewAgent, releases: Releases, short_folder: Path) -> None:
    agent = new_agent().start_and_wait()
    for kind, bundle in hostile_bundles(releases, short_folder).items():
        stderr = refused(agent, command=("import", str(bundle)))
        model = agent.model("tiny")
        assert (model["active"]["version"], model["serving"]) == ("0.9.0", True), (kind, stderr)
        assert [snapshot["version"] for snapshot in model["snapshots"]] == ["0.9.0"], (kind, stderr)
    assert "signature" in {record["reason"] for record in agent.model("tiny")["quarantined"]}
    done = agent.cli("import", str(releases.all["1.1.0"].bundle))
    assert done.returncode == 0, "the good one is not blocked by what lied about it: " + done.stderr


def test_a_bundle_for_another_device_type_or_model(new_agent: NewAgent, releases: Releases, short_folder: Path) -> None:
    other = for_device_type(
        releases.publisher, releases.all["1.1.0"].bundle, short_folder / "jetson", "jetson-orin", "1.1.0-jetson"
    )
    agent = new_agent().start_and_wait()
    refused(agent, "jetson", command=("import", str(other)))
    agent2 = new_agent("e", factory=None)
    agent2.config_file.write_text(agent2.config_file.read_text().replace("[models.tiny]", "[models.nose]"))
    agent2.start()
    wait_until(agent2.status_or_none, "the agent answers")
    refused(agent2, "tiny", command=("import", str(releases.all["1.1.0"].bundle)))


def test_json_is_one_document_also_for_a_refusal(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    done = agent.cli("rollback", "tiny", "--to", "7", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["reason"] == "unknown_version"
    assert json.loads(agent.cli("status", "--json").stdout)["models"]["tiny"]["serving"] is True

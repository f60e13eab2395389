"""The steps of the story, in order; each asserts what an operator would want to see."""

from __future__ import annotations

import os
import signal
import time

from tests.demo.fleet_story import FLEET_STORY
from tests.demo.stage import VERSIONS, Stage
from tests.harness.agent import wait_until
from tests.harness.damage import crashing_program, flip_parameters, is_damaged, other_weights
from tests.harness.fleet import Fleet
from tests.publishing import signature_flipped

WORKER_KILLS = 8


def publish(stage: Stage) -> None:
    """a. Models are trained, exported, proven, signed, bundled."""
    with stage.step("a. Train, export, prove, sign and bundle digits 0.9.0 (factory), 1.0.0 and 1.1.0") as seen:
        for version in VERSIONS:
            seen.append(stage.train_and_publish(version))


def start(stage: Stage) -> None:
    """b, first half. The device starts with what it left the factory with."""
    with stage.step("b1. The device starts from its factory snapshot") as seen:
        stage.fleet = Fleet(
            stage.folder / "fleet",
            stage.releases,
            model={"probation_s": 2.0},
            scrub={"interval_s": 1.0, "chunks_per_s": 200},
            limits={"orphan_s": 30.0},
            sync={"reconnect_max_s": 1.0},  # a fleet of three need not be gentle with its broker
        )
        stage.fleet.broker.start()  # its address stands in agent.toml; nobody who could assign anything is there yet
        agent = stage.fleet.add_agent("device-1")
        agent.forked = False
        agent.start_and_wait()
        assert agent.model("digits")["active"]["version"] == "0.9.0"
        stage.begin_to_ask(agent, pause_s=0.001)
        wait_until(lambda: len(stage.client.records) > 50, "the client is answered")
        seen.append("serves digits@0.9.0; the client sends pictures from now on, without a pause")


def updates(stage: Stage) -> None:
    """b, second half. Two releases arrive as files, under load."""
    for version in ("1.0.0", "1.1.0"):
        with stage.step(f"b2. digits {version} is imported from a file, under load") as seen:
            stage.mark(f"import {version}")
            done = stage.agent.cli("import", str(stage.bundle_path(version)))
            assert done.returncode == 0, done.stderr
            seen.append(done.stdout.strip())
            _wait_active(stage, version)
            stage.agent.wait_model("digits", lambda m: m["candidate"] is None, "confirmed")
            seen.append(f"confirmed; accuracy on held-out pictures {_accuracy(stage, version):.1%}")


def damage(stage: Stage) -> None:
    """c. Stored bytes are damaged while they serve."""
    digest, agent = stage.digests["1.1.0"], stage.agent
    with stage.step("c1. Bits flip in the stored chunks of the active snapshot") as seen:
        stage.mark("bits flipped on disk")
        seen.append(f"bytes flipped in models.db: {_flip(stage, '1.1.0')}")
        agent.wait_model("digits", lambda m: is_damaged(m, digest), "the device notices by itself")
        assert agent.model("digits")["active"]["version"] == "1.1.0"
        seen.append("noticed by the scrub and reported; the loaded bytes go on serving")
        stage.mark("repaired")
        done = agent.cli("import", str(stage.bundle_path("1.1.0")))
        assert done.returncode == 0, done.stderr
        agent.wait_model("digits", lambda m: not is_damaged(m, digest), "repaired from the bundle")
        seen.append("repaired from the bundle: only the damaged chunks were taken")
    with stage.step("c2. Bits flip again, and every worker of the snapshot is killed") as seen:
        stage.mark("bits flipped, workers killed")
        _flip(stage, "1.1.0")
        agent.wait_model("digits", lambda m: is_damaged(m, digest), "the device notices")
        agent.kill_workers(digest)
        _wait_active(stage, "1.0.0")
        assert agent.model("digits")["reason"] == "damage"
        seen.append("answers from the last good one, 1.0.0, reason damage")
        stage.mark("repaired")
        done = agent.cli("import", str(stage.bundle_path("1.1.0")))
        assert done.returncode == 0, done.stderr
        _wait_active(stage, "1.1.0")
        seen.append("after the repair it climbs back to 1.1.0 by itself")


def bad_releases(stage: Stage) -> None:
    """d. Three damaged releases arrive."""
    good, folder = stage.model_folder("1.1.0"), stage.folder
    stage.releases.publish_folder("1.2.0", other_weights(good, folder / "weights", "1.2.0", 4), proven=False)
    stage.releases.publish_folder("1.3.0", crashing_program(good, folder / "crash", "1.3.0", 5), proven=False)
    bundles = {
        "signature": signature_flipped(stage.bundle_path("1.1.0"), folder / "signature.bundle"),
        "proof": stage.bundle_path("1.2.0"),
        "load_crash": stage.bundle_path("1.3.0"),
    }
    for reason, bundle in bundles.items():
        with stage.step(f"d. A damaged release arrives: {reason}") as seen:
            stage.mark(f"damaged release: {reason}")
            done = stage.agent.cli("import", str(bundle))
            assert done.returncode == 1, f"it was taken in: {done.stdout}"
            seen.append(done.stderr.strip().splitlines()[-2].strip()[:160])
            model = stage.agent.model("digits")
            assert reason in {record["reason"] for record in model["quarantined"]}, model["quarantined"]
            assert model["active"]["version"] == "1.1.0"
            if reason == "signature":
                versions = [snapshot["version"] for snapshot in model["snapshots"]]
                assert sorted(versions) == sorted(VERSIONS), versions
            seen.append("refused; 1.1.0 goes on serving")


def kills(stage: Stage) -> None:
    """e. Processes are killed under load."""
    agent, digest = stage.agent, stage.digests["1.1.0"]
    with stage.step(f"e1. The serving worker is killed with SIGKILL, {WORKER_KILLS} times") as seen:
        before = len(stage.client.records)
        stage.mark(f"worker killed, {WORKER_KILLS} times")
        for _ in range(WORKER_KILLS):
            victim = agent.workers(digest)[0]
            os.kill(victim["pid"], signal.SIGKILL)
            wait_until(
                lambda gone=victim["id"]: [w for w in agent.workers(digest) if w["id"] != gone][1:], "two workers again"
            )
        assert agent.model("digits")["active"]["version"] == "1.1.0"
        slowest = max(record.took_s for record in stage.client.records[before:])
        seen.append(f"{WORKER_KILLS} kills, slowest answer {slowest * 1000:.0f} ms, 1.1.0 keeps its good name")
    with stage.step("e2. The runtime is killed with SIGKILL and started again") as seen:
        children = set(agent.pids()) - {agent.status()["processes"]["runtime"]}
        stage.mark("runtime killed")
        agent.kill_runtime()
        answered = len(stage.client.records)
        wait_until(lambda: len(stage.client.records) > answered + 100, "answers without a runtime")
        stage.mark("runtime started")
        agent.start()
        status = agent.wait_serving()
        kept = children & set(agent.pids())
        assert status["processes"]["front"] in kept, "the front was not taken over"
        assert len(kept) >= 3, f"only {len(kept)} of {len(children)} children were taken over"
        seen.append(f"answers went on without it; it came back and took over {len(kept)} of {len(children)} children")


def rollback(stage: Stage) -> None:
    """f. The operator goes back."""
    with stage.step("f. `edge-agent rollback digits` puts 1.0.0 back within a second") as seen:
        started = time.monotonic()
        stage.mark("rollback")
        done = stage.agent.cli("rollback", "digits")
        took_s = time.monotonic() - started
        assert done.returncode == 0, done.stderr
        _wait_active(stage, "1.0.0")
        assert took_s < 1.0, f"it took {took_s:.2f} s"
        seen.append(f"{done.stdout.strip()} after {took_s * 1000:.0f} ms, start of the command included")


def settle(stage: Stage) -> None:
    """The counts over the whole story."""
    with stage.step(
        "All answers of the whole story, compared with the reference of the digest that they claim"
    ) as seen:
        for name, client in stage.clients.items():
            client.stop()
            total, versions = len(client.records), dict(client.versions())
            seen.append(
                f"{name}: {total} requests, mismatches {client.mismatches}, failed {client.failed}"
                f" {client.failures[:3] or ''}; answers by version {versions}"
            )
        for client in stage.clients.values():
            assert len(client.records) > 1000, "the client did not run"
            assert client.mismatches == 0
            assert client.failed == 0


def _wait_active(stage: Stage, version: str) -> None:
    """Until status and answers agree."""
    stage.agent.wait_model(
        "digits",
        lambda m: m["active"] and m["active"]["version"] == version and m["status"] == "up",
        f"{version} serves",
    )
    wait_until(lambda: stage.client.last_version() == version, f"answers come from {version}")


def _accuracy(stage: Stage, version: str) -> float:
    """Share of the held-out pictures that this version, as served now, reads right."""
    import http.client

    from tests.harness.client import ask

    inputs, labels, _ = stage.held_out()
    connection = http.client.HTTPConnection("127.0.0.1", stage.client.port, timeout=30)
    right = 0
    for row, label in enumerate(labels):
        answer = ask(connection, "digits", "image", inputs[row : row + 1])
        assert answer.output is not None and answer.version == version, answer.text
        right += int(answer.output.argmax() == label)
    connection.close()
    return right / len(labels)


def _flip(stage: Stage, version: str) -> int:
    models_db = stage.agent.state_dir / "models.db"
    return flip_parameters(models_db, stage.publisher.repository.folder, stage.bundle_path(version))


STORY = (publish, start, updates, damage, bad_releases, kills, rollback, *FLEET_STORY, settle)

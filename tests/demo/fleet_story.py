"""The second half of the story: the device gets a coordinator and two companions; each step asserts what an operator
would want to see. The first half, one device alone, is in `story`.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from edge_agent.contract.manifest import Manifest
from tests.demo.stage import Stage
from tests.harness.agent import PADDLE_PYTHON, wait_until
from tests.harness.damage import flip_parameters, is_damaged
from tests.harness.proxy import Link
from tests.publishing import for_device_type, manifest_of
from tests.tiny_model import write_tiny_model

CUTS = 20
CUT_AFTER_BYTES = 500_000
BALLAST_HIDDEN = 600_000  # 16.8 MB of parameters: a download that outlives 20 cuts
CLIENT_PAUSE_S = 0.004  # three clients and three devices share two cores here
IN_FLIGHT_MS = 300  # what was served so long before or after a cut may have been under way, or asked for, at the cut
GONE_BACK_S = 1.0


def gather(stage: Stage) -> None:
    """g, first part. Coordinator and companions."""
    with stage.step("g1. A coordinator is named by the publisher; two more devices join") as seen:
        stage.link = Link(("127.0.0.1", stage.fleet.broker.port)).__enter__()
        stage.fleet.start_coordinator()
        _add_companions(stage)
        for name in ("device-1", "device-2", "device-3"):
            stage.fleet.wait_device(name, lambda device: device["online"], "it is online", 60.0)
        for agent in stage.fleet.agents[1:]:
            stage.begin_to_ask(agent, CLIENT_PAUSE_S)
        stage.client.pause_s = CLIENT_PAUSE_S
        stage.mark("coordinator")
        seen.append(_devices(stage))


def _add_companions(stage: Stage) -> None:
    fleet = stage.fleet
    engines = {"paddle": {"python": PADDLE_PYTHON}, "numpy": {"python": sys.executable}}
    small = write_tiny_model(stage.folder / "ballast-0", name="ballast", version="0.9.0")
    stage.publisher.pack(small)
    factory = stage.folder / "ballast.factory"
    second = fleet.add_agent("device-2")
    third = fleet.add_agent(
        "device-3",
        broker=stage.link.address,
        models={"ballast": {"factory": str(factory), "probation_s": 0.0}},
        engines=engines,
    )
    fleet.fleet_json("snapshot", "publish", "--all")
    bundle = stage.publisher.bundle("ballast@0.9.0", stage.folder / "ballast.bundle")
    done = third.cli("factory", str(bundle), "--out", str(factory))
    assert done.returncode == 0, done.stderr
    for agent in (second, third):
        agent.forked = False
        agent.start()
    for agent in (second, third):
        agent.wait_serving(60.0)


def roll_out(stage: Stage) -> None:
    """g, second part. Over MQTT, in chunks, first all at once, then one after the other."""
    with stage.step("g2. `fleet rollout start digits --to 1.0.0`: fetched over MQTT, verified, proven, served") as seen:
        stage.mark("rollout 1.0.0")
        seen.append(_roll_out(stage, "1.0.0", "--strategy", "all"))
        served = Counter(part.device for part in _served(stage))
        seen.append("parts served: " + ", ".join(f"{device} {served[device]}" for device in sorted(served)))
        assert served["device-2"] and served["device-3"], "nothing was fetched"
    with stage.step(
        "g3. `fleet rollout start digits --to 1.1.0 --strategy one`: one after the other, under load"
    ) as seen:
        stage.mark("rollout 1.1.0, one by one")
        begun = {name: client.now_s() for name, client in stage.clients.items()}
        seen.append(_roll_out(stage, "1.1.0", "--strategy", "one"))
        first = {name: _first_answer_unix_s(stage, name, "1.1.0", begun[name]) for name in stage.clients}
        order = sorted(first, key=first.__getitem__)
        assert order == ["device-1", "device-2", "device-3"], first
        assert first["device-3"] - first["device-2"] >= 1.0, f"device-3 did not wait for device-2's probation: {first}"
        failed = sum(client.failed for client in stage.clients.values())
        assert failed == 0, [client.failures[:2] for client in stage.clients.values()]
        seen.append(f"{' → '.join(order)}, each once the one before had confirmed it; failed requests: {failed}")


def refuse(stage: Stage) -> None:
    """h. Damaged releases, one per device."""
    fleet = stage.fleet
    with stage.step("h. Damaged releases arrive over the line, one per device") as seen:
        for_device_type(
            stage.publisher, stage.bundle_path("1.3.0"), stage.folder / "other.bundle", "other-board", "1.4.0"
        )
        fleet.fleet_json("snapshot", "publish", "--all")
        expected = {
            "device-1": ("1.4.0", "incompatible"),
            "device-2": ("1.2.0", "proof"),
            "device-3": ("1.3.0", "load_crash"),
        }
        for device, (version, _) in expected.items():
            stage.mark(f"damaged {version} for {device}")
            fleet.fleet_json("rollout", "start", "digits", "--to", version, "--device", device)
        for device, (version, reason) in expected.items():
            fleet.wait_device(
                device,
                lambda known, version=version, reason=reason: (version, reason) in _turned_away(known),
                f"{version} is turned away for {reason}",
                60.0,
            )
        for device in expected:
            assert fleet.agent(device).model("digits")["active"]["version"] == "1.1.0"
        listed = fleet.fleet("devices", "list")
        assert listed.returncode == 0, listed.stderr
        for _, reason in expected.values():
            assert reason in listed.stdout, f"`fleet devices list` does not show {reason}: {listed.stdout}"
        seen += [line.rstrip() for line in listed.stdout.splitlines() if line.strip()]
    with stage.step("h2. A newer rollout is not held up by those that were halted") as seen:
        seen.append(_roll_out(stage, "1.1.0"))


def repair(stage: Stage) -> None:
    """i. Only what is damaged is fetched again."""
    agent, digest = stage.fleet.agent("device-2"), stage.digests["1.1.0"]
    with stage.step("i. Bits flip on device-2: the damaged chunks are fetched again over the line, only those") as seen:
        before = len(_served(stage))
        stage.mark("bits flipped on device-2")
        flipped = flip_parameters(
            agent.state_dir / "models.db", stage.publisher.repository.folder, stage.bundle_path("1.1.0")
        )
        agent.wait_model("digits", lambda m: is_damaged(m, digest), "the device notices by itself")
        agent.wait_model("digits", lambda m: not is_damaged(m, digest), "it repairs itself", 60.0)
        wait_until(lambda: len(_served(stage)) > before, "the coordinator has logged it")
        fetched = {part.name for part in _served(stage)[before:] if part.device == "device-2"} & _chunks(stage, "1.1.0")
        damaged = _chunks_of_parameters(stage, "1.1.0")
        assert fetched == damaged, f"fetched {len(fetched)} chunks, damaged {len(damaged)}"
        seen.append(
            f"{flipped} places flipped in {len(damaged)} chunk; fetched again: {len(fetched)}; no restart, no fallback"
        )


def cut(stage: Stage) -> None:
    """j. The link is cut in the middle of a download."""
    fleet, link = stage.fleet, stage.link
    with stage.step(f"j. The link of device-3 is cut {CUTS} times in the middle of a download of 17 MB") as seen:
        wide = {"rtol": 1e-2, "atol": 1.0}  # sums of 600,000 products come out differently with each order
        engine = {"engine": "numpy", "format": "holdfast-numpy", "program": "model.json", "parameters": "model.bin"}
        big = write_tiny_model(
            stage.folder / "ballast-1",
            name="ballast",
            version="1.0.0",
            release=2,
            hidden=BALLAST_HIDDEN,
            engines=[{**engine, **wide}],
        )
        fleet.fleet_json("snapshot", "publish", str(big))
        before = len(_served(stage))
        began_ms = time.time_ns() // 1_000_000
        stage.mark(f"link of device-3 cut, {CUTS} times")
        link.cut_after(CUT_AFTER_BYTES, times=CUTS)
        done = fleet.fleet("rollout", "start", "ballast", "--to", "1.0.0", "--wait", "120", timeout_s=150.0)
        assert done.returncode == 0, done.stderr
        assert link.cuts_left == 0, f"{link.cuts_left} cuts were not made"
        manifest = _manifest(stage, "ballast", "1.0.0")
        names = {sha256 for entry in manifest.files for sha256 in entry.chunks}
        wait_until(lambda: _covers(_served(stage)[before:], names, manifest), "the coordinator has logged every part")
        parts = [part for part in _served(stage)[before:] if part.name in names]
        cuts_ms = [at_ms for at_ms in link.cuts_unix_ms if at_ms >= began_ms]
        again = _served_again(parts)
        for earlier in again:
            under_way = any(abs(earlier.at_unix_ms - at_ms) <= IN_FLIGHT_MS for at_ms in cuts_ms)
            assert under_way, f"a part was served again without having been under way at a cut: {earlier}"
        seen.append(
            f"{len(parts)} parts served for {manifest.total_bytes() / 2**20:.1f} MiB; {len(again)} were under way at"
            f" one of the {len(cuts_ms)} cuts and served again, no other part twice"
        )


def lose_broker(stage: Stage) -> None:
    """k. The broker dies and forgets everything."""
    fleet = stage.fleet
    with stage.step("k. The broker is killed with SIGKILL and returns without any memory") as seen:
        stage.mark("broker killed")
        fleet.broker.kill()
        for name, client in stage.clients.items():
            answered = len(client.records)
            wait_until(lambda c=client, n=answered: len(c.records) > n + 50, f"{name} answers without a broker")
        for agent in fleet.agents:
            wait_until(lambda a=agent: not a.status()["sync"]["connected"], "it knows that the line is down")
        fleet.broker.start()
        stage.mark("broker back, empty")
        began = time.monotonic()
        for agent in fleet.agents:
            wait_until(lambda a=agent: a.status()["sync"]["connected"], "it is connected again", 60.0)
            wait_until(lambda a=agent: a.status()["sync"]["outbox"] == 0, "all its reports are committed", 60.0)
        for agent in fleet.agents:
            fleet.wait_device(agent.folder.name, lambda device: device["online"], "it is online", 60.0)
        took_s = time.monotonic() - began
        seen.append(f"answers went on; {took_s:.0f} s after its return all are in sync again, nobody did anything")


def go_back(stage: Stage) -> None:
    """l. The fleet goes back while a device is away."""
    fleet, link = stage.fleet, stage.link
    with stage.step("l. `fleet rollback digits --to 1.0.0` while device-3 is away") as seen:
        link.go_away()
        wait_until(lambda: not fleet.agent("device-3").status()["sync"]["connected"], "device-3 is away")
        stage.mark("fleet rollback")
        begun = {name: client.now_s() for name, client in stage.clients.items()}
        accepted = fleet.fleet_json("rollback", "digits", "--to", "1.0.0")["rollout"]["created_unix_ms"] / 1000
        for name in ("device-1", "device-2"):
            took_s = _first_answer_unix_s(stage, name, "1.0.0", begun[name]) - accepted
            assert took_s <= GONE_BACK_S, f"{name} answered with 1.0.0 only {took_s:.2f} s after the acceptance"
            seen.append(f"{name} answers with 1.0.0 {took_s * 1000:.0f} ms after the coordinator's acceptance")
        assert stage.clients["device-3"].last_version() == "1.1.0"
        stage.mark("device-3 returns")
        link.come_back()
        wait_until(lambda: stage.clients["device-3"].last_version() == "1.0.0", "device-3 follows", 90.0)
        seen.append("device-3 serves 1.1.0 while it is away, and 1.0.0 once it is back")


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the coordinator's log of served parts."""

    device: str
    name: str
    offset: int
    length: int
    at_unix_ms: int


def _served(stage: Stage) -> list[Part]:
    """The coordinator's log of served parts, in order."""
    path = stage.fleet.coordinator.data / "coordinator.db"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        found = database.execute(
            "SELECT device_id, name, offset, length, at_unix_ms FROM served_parts ORDER BY id"
        ).fetchall()
    database.close()
    return [Part(*values) for values in found]


def _served_again(parts: list[Part]) -> list[Part]:
    """Parts that overlap one that was served later."""
    again = []
    by_name: dict[str, list[Part]] = {}
    for part in parts:
        for earlier in by_name.setdefault(part.name, []):
            if earlier.offset < part.offset + part.length and part.offset < earlier.offset + earlier.length:
                again.append(earlier)
        by_name[part.name].append(part)
    return list(dict.fromkeys(again))


def _covers(parts: list[Part], names: set[str], manifest: Manifest) -> bool:
    """Whether these parts hold every byte of the manifest's chunks."""
    held = sum({(part.name, part.offset): part.length for part in parts if part.name in names}.values())
    return held >= manifest.total_bytes()


def _manifest(stage: Stage, model: str, version: str) -> Manifest:
    from edge_agent.contract.manifest import parse_manifest

    path = stage.publisher.repository.folder / "manifests" / model / f"{version}.json"
    return parse_manifest(path.read_bytes())


def _chunks(stage: Stage, version: str) -> set[str]:
    return set(manifest_of(stage.bundle_path(version)).chunk_hashes())


def _chunks_of_parameters(stage: Stage, version: str) -> set[str]:
    manifest = manifest_of(stage.bundle_path(version))
    path = manifest.engines[0].parameters
    assert path is not None
    return set(manifest.file(path).chunks)


def _roll_out(stage: Stage, version: str, *options: str) -> str:
    """Start a rollout of digits, follow it to its end, and see every client answered by that version."""
    done = stage.fleet.fleet("rollout", "start", "digits", "--to", version, "--wait", "90", *options, timeout_s=120.0)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    for name, client in stage.clients.items():
        wait_until(lambda c=client: c.last_version() == version, f"{name} answers with {version}")
    return done.stdout.strip().splitlines()[-1].strip()


def _turned_away(device: dict[str, Any]) -> set[tuple[str, str]]:
    return {(record["version"], record["reason"]) for record in device["models"]["digits"]["turned_away"]}


def _devices(stage: Stage) -> str:
    devices = stage.fleet.devices()
    return ", ".join(
        f"{name} serves {device['models']['digits']['active']['version']}" for name, device in sorted(devices.items())
    )


def _first_answer_unix_s(stage: Stage, name: str, version: str, after_s: float) -> float:
    """When this client had its first answer of this version after the given second of its own clock."""
    client = stage.clients[name]

    def found() -> float | None:
        records = list(client.records)
        return next((r.at_s + r.took_s for r in records if r.at_s > after_s and r.version == version), None)

    at_s: float = wait_until(found, f"{name} answers with {version}")
    return at_s + client.started_unix_s


FLEET_STORY = (gather, roll_out, refuse, repair, cut, lose_broker, go_back)

"""One whole update of a device, played in a process of its own: the real runtime, but for workers and front.

`python -m tests.images.update PLAN`: PLAN is the JSON of a `Plan`. What the product says to be on the disk is written
to the plan's file of words, a JSON line each: a `begun` line before the product is asked, a `done` line once it has
returned. Whoever records the process's calls finds the words in their order among its writes.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_agent.config import load_config
from edge_agent.contract.evidence import MetadataFiles, encode_evidence
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.actions import Action, KeepWorkers, Route, Tell
from edge_agent.core.state import ModelState, Settings
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.runtime.app import Runtime
from edge_agent.runtime.authority import Authority
from edge_agent.runtime.claim import Claim
from edge_agent.runtime.library import Library, read_pinned_root
from edge_agent.runtime.marks import Marks, encode_marks
from edge_agent.runtime.offers import Offer
from edge_agent.runtime.persistence import AgentStore
from edge_agent.runtime.retention import removable
from edge_agent.runtime.saved_state import encode_state
from edge_agent.store import agent_db, models_db, small_file

MODEL = "tiny"


@dataclass(frozen=True)
class Plan:
    """Where everything is. bundles: those that are served, in order. unfit: the one whose worker never comes up.

    sabotage: which syncs are left out, to see that the images show it.
    """

    config_file: str
    run_dir: str
    words_file: str
    bundles: tuple[str, ...]
    unfit: str
    sabotage: str = ""


class Words:
    """What the product was asked, and what it has said."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, stage: str, kind: str, **what: Any) -> None:
        os.write(self._fd, json.dumps({"stage": stage, "kind": kind, **what}).encode() + b"\n")

    def listen(self, owner: type, method: str, kind: str, describe: Callable[..., dict[str, Any]]) -> None:
        """Have this method of the product accompanied by its words; it does what it does."""
        original = getattr(owner, method)

        async def accompanied(*arguments: Any, **named: Any) -> Any:
            what = describe(*arguments)
            self.say("begun", kind, **what)
            result = await original(*arguments, **named)
            self.say("done", kind, **what)
            return result

        setattr(owner, method, accompanied)

    def listen_to_all(self) -> None:
        self.listen(AgentStore, "commit", "state", _committed)
        self.listen(AgentStore, "begin", "boot", lambda _: {})
        self.listen(Library, "admit", "admit", lambda _, digest: {"digest": digest})
        self.listen(Library, "remove", "remove", lambda _, digest: {"digest": digest})
        self.listen(Authority, "take", "metadata", lambda *_: {})
        self.listen(Marks, "_save", "marks", lambda _, seen: {"document": encode_marks(seen).decode()})


def _committed(_: AgentStore, state: ModelState, event: ev.Event, told: tuple[Tell, ...], *rest: Any) -> dict[str, Any]:
    return {"document": encode_state(state).decode(), "facts": len(told)}


class PlayedRuntime(Runtime):
    """The real executor, library, desk, marks and retention on their store threads; workers live in memory.

    unfit: the snapshot whose worker cannot be brought up.
    """

    unfit = ""

    async def boot(self, pinned_root: bytes) -> None:
        """As `Runtime` does, without children, front and sockets."""
        await self._open(pinned_root)
        self._up: dict[str, str] = {}
        known = await self._library.scan(frozenset({MODEL}))
        await self._marks.load(self._library.seen_versions())
        await self._authority.load()
        self._tasks.spawn(self._executor.run(), name="executor")
        self._tasks.spawn(self._feed(), name="events")
        settings = Settings(self._config.models[MODEL].policy(), self._config.models[MODEL].spare)
        await self._executor.post(ev.Booted(MODEL, settings, known, ()))

    async def halt(self) -> None:
        """A clean stop; the databases are closed with the process's last reference to them, as the product's are."""
        await self._executor.post(ev.Stopping(MODEL))
        await self._tasks.end()
        await self._agent_thread.call(self._store._agent.close)
        await self._models_thread.call(self._library._models.close)
        assert self._agent_thread.end(60) and self._models_thread.end(60)

    def act(self, action: Action) -> None:
        match action:
            case KeepWorkers(digests=digests):
                for digest in digests:
                    self._tasks.spawn(self._bring_up(digest), name="played-worker")
            case Route(digest=digest):
                if digest is not None:
                    self._post(ev.Routed(MODEL, digest))
            case _:
                super().act(action)

    async def _bring_up(self, digest: str) -> None:
        if digest in self._up:
            return
        if digest == self.unfit:
            self._post(ev.BringUpFailed(MODEL, digest, Reason.PROOF, "another answer"))
            return
        self._up[digest] = f"w{len(self._up)}"
        self._post(ev.WorkerUp(MODEL, self._up[digest], digest))
        manifest = self._library.manifest(digest)
        assert manifest is not None
        answer = {"device": "cpu", "engine_version": "1", "proof": {"passed": True}}
        await self._library.record_proof(digest, manifest.engines[0], answer)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a change after which this holds."""
        async with asyncio.timeout(120):
            while not condition():
                await self._executor.wait_change(self._executor.changes, 1.0)

    async def offer(self, bundle_path: Path) -> str:
        """Offer this bundle as an import does, chunk by chunk; its digest."""
        with BundleReader(bundle_path) as bundle:
            manifest = bundle.manifest_raw
            offer = Offer()
            self._desk.add_piece(offer, "manifest", manifest)
            self._desk.add_piece(offer, "evidence", encode_evidence(bundle.evidence))
            for sha256 in await self._desk.begin(offer, retry=False, claimed_model=MODEL, claimed_version=""):
                await self._desk.put_chunk(offer, sha256, bundle.chunk(sha256))
            if offer.verified is not None and offer.verified.digest in self._desk._open:
                await self._desk.end(offer)
            assert offer.verified is not None
            return offer.verified.digest

    def state(self) -> Any:
        return self._executor.state(MODEL)

    async def take(self, bundle_path: Path) -> str:
        """Offered, received, verified, proven, on probation, confirmed."""
        digest = await self.offer(bundle_path)
        await self.until(lambda: self.state().active == digest and self.state().candidate is None)
        return digest

    async def refresh(self, bundle_path: Path) -> None:
        """Metadata as the sync process brings it, kept in a small file."""
        with BundleReader(bundle_path) as bundle:
            one = bundle.evidence
        await self._authority.take(MetadataFiles(one.root_chain, one.timestamp, one.tuf_snapshot, one.targets), None)

    async def damage_and_repair(self, digest: str, bundle_path: Path, words: Words) -> None:
        """Bits of the largest chunk change behind SQLite's back; a scrub finds it, an offer of the same mends it."""
        words.say("begun", "damage", digest=digest)
        with BundleReader(bundle_path) as bundle:
            manifest = self._library.manifest(digest)
            largest = max((bundle.chunk(sha256) for sha256 in manifest.chunk_hashes()), key=len)
        path = self._state_dir / "models.db"
        at = path.read_bytes().find(largest[:64])
        assert at > 0
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, bytes(byte ^ 1 for byte in largest[:8]), at)
        os.fsync(fd)
        # The descriptor stays open: closing it would give up SQLite's own locks on this file.
        found = await self._scrubber.verify_all()
        assert found[digest] == 1, found
        await self.offer(bundle_path)
        await self.until(lambda: not self.state().find(digest).damaged)
        words.say("done", "damage", digest=digest)


async def play(plan: Plan) -> None:
    """Each release taken in a boot of its own. Of three or more that is not all: then an unfit one comes, the newest is
    damaged and repaired, and the oldest is removed.
    """
    words = Words(Path(plan.words_file))
    words.listen_to_all()
    config = load_config(Path(plan.config_file))
    pinned_root = read_pinned_root(Path(config.trusted_root))
    claimed = Claim(Path(plan.run_dir), [])
    bundles = [Path(bundle) for bundle in plan.bundles]

    async def booted() -> PlayedRuntime:
        runtime = PlayedRuntime(config, claimed)
        runtime.unfit = unfit
        await runtime.boot(pinned_root)
        if digests:
            await runtime.until(lambda: runtime.state().active == digests[-1])
        return runtime

    with BundleReader(Path(plan.unfit)) as bundle:
        unfit = hashlib.sha256(bundle.manifest_raw).hexdigest()
    digests: list[str] = []
    for bundle_path in bundles:  # a clean stop after each: agent.db's WAL is folded in and begun anew
        runtime = await booted()
        await runtime.refresh(bundle_path)
        digests.append(await runtime.take(bundle_path))
        await runtime.halt()
    if len(digests) < 3:
        return

    runtime = await booted()
    await runtime.offer(Path(plan.unfit))
    await runtime.until(lambda: runtime.state().is_quarantined(unfit))
    await runtime.damage_and_repair(digests[-1], bundles[-1], words)
    assert digests[0] in removable(runtime.state())
    runtime._retention._bytes_max = await runtime._library.used_bytes() - 1  # over the budget: the oldest goes
    await runtime._retention.keep_within_budget()
    assert not runtime._library.is_admitted(digests[0])
    await runtime.halt()


def sabotage(what: str) -> None:
    """Leave out syncs of one kind. databases: all of SQLite's. admission, shrinking: those of the folder, after an
    admission and after a collection. small_files: those of `small_file`.
    """
    if what == "small_files":
        small_file.os = _WithoutSync()
    if what == "admission":
        models_db.sync_folder = lambda folder: None
    if what in ("databases", "shrinking"):
        for module in (agent_db, models_db):
            module.connect = functools.partial(_connect_unsafely, module.connect, what)


def _connect_unsafely(connect: Callable[..., Any], what: str, *arguments: Any, **named: Any) -> Any:
    database = connect(*arguments, **named)
    safe = database.executescript
    if what == "databases":
        database.execute("PRAGMA synchronous=OFF")
    database.executescript = lambda script: safe(script.replace("=EXTRA", "=FULL"))
    return database


class _WithoutSync:
    """The module `os`, whose fsync does nothing."""

    def __getattr__(self, name: str) -> Any:
        return (lambda fd: None) if name == "fsync" else getattr(os, name)


def plan_as_json(plan: Plan) -> str:
    return json.dumps(asdict(plan))


if __name__ == "__main__":
    given = Plan(**json.loads(sys.argv[1]))
    sabotage(given.sabotage)
    asyncio.run(play(given))

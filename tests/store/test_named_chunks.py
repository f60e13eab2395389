"""Only chunks that a verified manifest names come into the store: the runtime's desk with its real library below it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.config import Config, ModelSettings
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import encode_evidence, manifest_target_path
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.actions import Action
from edge_agent.core.state import ModelState, Moment, Settings
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.library import Library
from edge_agent.runtime.marks import Marks
from edge_agent.runtime.offers import Offer, OfferDesk
from edge_agent.runtime.persistence import AgentStore
from edge_agent.runtime.publisher_word import PublisherWord
from edge_agent.runtime.tasks import Tasks
from edge_agent.store.agent_db import AgentDb
from edge_agent.store.models_db import ModelsDb
from edge_agent.store.thread import StoreThread
from tests.store.snapshots import NOW_MS, Content, content
from tests.trust.authority import Authority

FAR = datetime.now(UTC) + timedelta(days=30)  # the desk looks at the real clock
EXPIRES = dict.fromkeys(("timestamp", "snapshot", "targets"), FAR)
AUTHORITY = Authority(root_expires=FAR)
ONE = content("1.0.0")


class Nobody:
    """An actor who does nothing: here only what is stored matters."""

    def act(self, action: Action) -> None:
        """Nothing is loaded or routed."""


def at_desk(folder: Path, story: Callable[[OfferDesk], Awaitable[None]]) -> None:
    """Run a story with a desk of a device that has nothing yet."""
    config = Config(state_dir=str(folder), models={"tiny": ModelSettings()}, trusted_root="", device_type="x86_64")

    async def run() -> None:
        thread = StoreThread()
        models, agent = ModelsDb(folder / "models.db"), AgentDb(folder / "agent.db")
        library = Library(thread, folder / "models.db", models, {}, AUTHORITY.pinned)
        store = AgentStore(thread, folder / "agent.db", agent, "d")
        executor = Executor(store, Nobody(), lambda: Moment(1.0, NOW_MS), [ModelState("tiny")])
        running = asyncio.create_task(executor.run())
        await executor.post(ev.Booted("tiny", Settings(), (), ()))
        try:
            marks = Marks(thread, store, folder)
            publisher = PublisherWord(executor, AUTHORITY.pinned)
            await story(OfferDesk(config, library, marks, executor, publisher, AUTHORITY.pinned, Tasks()))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            thread.end()
            models.close()
            agent.close()

    asyncio.run(run())


def stored(folder: Path) -> tuple[set[str], int]:
    """Digests of visible snapshots, and how many chunks there are."""
    models = ModelsDb(folder / "models.db", immutable=True)
    (chunks,) = models._db.execute("SELECT count(*) FROM chunk").fetchone()
    found = {snapshot.digest for snapshot in models.snapshots()}
    models.close()
    return found, chunks


async def begin(desk: OfferDesk, snapshot: Content, evidence_raw: bytes | None = None) -> Offer:
    """Evidence and manifest as a client sends them, in pieces."""
    offer = Offer()
    path = manifest_target_path("tiny", snapshot.manifest.version)
    raw = (
        encode_evidence(AUTHORITY.evidence(snapshot.raw, path=path, expires=EXPIRES))
        if evidence_raw is None
        else evidence_raw
    )
    for name, document in (("evidence", raw), ("manifest", snapshot.raw)):
        for at in range(0, len(document), 1_000):
            desk.add_piece(offer, name, document[at : at + 1_000])
    await desk.begin(offer, retry=False, claimed_model="tiny", claimed_version=snapshot.manifest.version)
    return offer


def test_an_offer_brings_in_exactly_what_its_manifest_names(tmp_path: Path) -> None:
    async def story(desk: OfferDesk) -> None:
        offer = await begin(desk, ONE)
        assert offer.wanted == set(ONE.chunks())
        foreign = b"right bytes for their hash, but nobody asked"
        with pytest.raises(Rejected, match="not wanted") as caught:
            await desk.put_chunk(offer, sha256_hex(foreign), foreign)
        assert caught.value.reason is Reason.CHUNK_MISMATCH
        for number, (sha256, data) in enumerate(ONE.chunks().items()):
            assert stored(tmp_path) == (set(), number)
            with pytest.raises(Rejected, match="still missing"):
                await desk.end(offer)
            await desk.put_chunk(offer, sha256, data)
            with pytest.raises(Rejected, match="not wanted"):
                await desk.put_chunk(offer, sha256, data)
        await desk.end(offer)

    at_desk(tmp_path, story)
    assert stored(tmp_path) == ({ONE.digest}, len(ONE.chunks()))


def test_before_the_signature_is_verified_nothing_is_stored(tmp_path: Path) -> None:
    stranger = Authority(root_expires=FAR).evidence(ONE.raw, expires=EXPIRES)
    other = AUTHORITY.evidence(b"another", expires=EXPIRES)
    evidences = (encode_evidence(stranger), encode_evidence(other), b"?")

    async def story(desk: OfferDesk) -> None:
        for evidence_raw in evidences:
            with pytest.raises(Rejected):
                await begin(desk, ONE, evidence_raw)
        offer = Offer()
        sha256, data = next(iter(ONE.chunks().items()))
        with pytest.raises(Rejected, match="not wanted"):
            await desk.put_chunk(offer, sha256, data)
        with pytest.raises(Rejected, match="no offer was begun"):
            await desk.end(offer)

    at_desk(tmp_path, story)
    assert stored(tmp_path) == (set(), 0)


def test_a_wrong_chunk_stays_wanted(tmp_path: Path) -> None:
    async def story(desk: OfferDesk) -> None:
        offer = await begin(desk, ONE)
        sha256, data = next(iter(ONE.chunks().items()))
        with pytest.raises(Rejected) as caught:
            await desk.put_chunk(offer, sha256, data[:-1] + b"!")
        assert caught.value.reason is Reason.CHUNK_MISMATCH
        await desk.put_chunk(offer, sha256, data)

    at_desk(tmp_path, story)
    assert stored(tmp_path) == (set(), 1)


def test_an_offer_that_goes_on_later_wants_only_the_rest(tmp_path: Path) -> None:
    async def story(desk: OfferDesk) -> None:
        first, *rest = ONE.chunks()
        await desk.put_chunk(await begin(desk, ONE), first, ONE.chunks()[first])
        offer = await begin(desk, ONE)
        assert offer.wanted == set(rest)

    at_desk(tmp_path, story)


def test_a_dropped_offer_gives_its_bytes_back(tmp_path: Path) -> None:
    async def story(desk: OfferDesk) -> None:
        offer = await begin(desk, ONE)
        for sha256, data in ONE.chunks().items():
            await desk.put_chunk(offer, sha256, data)
        await desk.drop(ONE.digest)

    at_desk(tmp_path, story)
    assert stored(tmp_path) == (set(), 0)
    assert (tmp_path / "models.db").stat().st_size < 1_000_000

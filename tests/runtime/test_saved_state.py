"""State documents of other agents: older ones, and of the future. What a boot makes of them is tests/core's."""

from __future__ import annotations

import json
from typing import Any

from edge_agent.contract.reasons import Reason
from edge_agent.core.state import Known, ModelState, Quarantine, Status
from edge_agent.runtime.saved_state import decode_state, encode_state

ONE, TWO, BAD = "1" * 64, "2" * 64, "b" * 64
SERVES = ModelState(
    "m",
    status=Status.UP,
    active=ONE,
    wanted=ONE,
    generation=3,
    known=(Known(ONE, "1.0", 1, "i", confirmed_unix_ms=5), Known(TWO, "2.0", 2, "i", confirmed_unix_ms=4)),
    quarantine=(Quarantine(BAD, "3.0", 3, Reason.PROOF, "golden vector 1", 9),),
)

# As an agent wrote it that knew no trial yet.
BEFORE_TRIALS = """
{"model":"m","settings":{"probation_s":300.0,"allow_interface_change":false,"spare":true,"retry_s":30.0},
 "status":"up","active":"1111111111111111111111111111111111111111111111111111111111111111",
 "active_since_unix_ms":7,"raising":null,
 "wanted":"1111111111111111111111111111111111111111111111111111111111111111","fallback_reason":null,"generation":3,
 "fallbacks":2,"known":[
  {"digest":"1111111111111111111111111111111111111111111111111111111111111111","version":"1.0","release":1,
   "interface":"i","factory":false,"confirmed_unix_ms":0,"damaged":false}],
 "candidate":{"snapshot":
  {"digest":"1111111111111111111111111111111111111111111111111111111111111111","version":"1.0","release":1,
   "interface":"i","factory":false,"confirmed_unix_ms":0,"damaged":false},"phase":"probation","since_unix_ms":6,
  "previous":null},
 "assigned":{"digest":"1111111111111111111111111111111111111111111111111111111111111111","version":"1.0","epoch":1,
  "generation":4,"probation_s":60.0,"allow_interface_change":null},"held":false,
 "quarantine":[{"digest":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","version":"3.0",
  "generation":3,"reason":"proof","detail":"golden vector 1","at_unix_ms":9}],
 "refused_offers":[],"declined":null,"refused_rungs":[],"live":[],"crashes":[],"probation_ends_s":null,
 "retry_at_s":null}
"""


def of_the_future(**changes: Any) -> ModelState | None:
    document = json.loads(encode_state(SERVES))
    return decode_state(json.dumps({**document, **changes}).encode())


def test_a_document_from_before_trials_is_read_whole() -> None:
    state = decode_state(BEFORE_TRIALS.encode())
    assert state is not None and state.active == ONE and state.phase == "probation" and state.generation == 3
    assert state.assigned is not None and state.assigned.order == (1, 4)
    assert state.is_quarantined(BAD) and not state.pinned


def test_unknown_fields_are_passed_over() -> None:
    known = [{**one, "thermal_class": 3} for one in json.loads(encode_state(SERVES))["known"]]
    assert of_the_future(known=known, shadow_of="x", votes=[1]) == SERVES


def test_a_status_of_the_future_costs_what_served_and_nothing_else() -> None:
    state = of_the_future(status="hibernating")
    assert state is not None and state.known == SERVES.known and state.is_quarantined(BAD)
    assert (state.wanted, state.generation, state.status) == (ONE, 3, Status.EMPTY)


def test_a_candidate_in_a_phase_of_the_future_is_forgotten_alone() -> None:
    snapshot = {"digest": "4" * 64, "version": "4", "release": 4, "interface": "i"}
    state = of_the_future(candidate={"snapshot": snapshot, "phase": "canary", "since_unix_ms": 1})
    assert state == SERVES


def test_what_failed_for_a_reason_of_the_future_stays_quarantined() -> None:
    records = json.loads(encode_state(SERVES))["quarantine"]
    state = of_the_future(quarantine=[*records, {**records[0], "digest": TWO, "reason": "cosmic_rays"}])
    assert state is not None and state.is_quarantined(BAD)
    record = state.is_quarantined(TWO)
    assert record is not None and record.reason is Reason.QUARANTINED and record.detail.startswith("cosmic_rays: ")


def test_one_record_that_cannot_be_read_costs_no_other() -> None:
    known = json.loads(encode_state(SERVES))["known"]
    state = of_the_future(known=[known[0], {"digest": TWO}, "?"])
    assert state is not None and state.known == SERVES.known[:1] and state.active == ONE


def test_what_is_no_document_at_all_is_not_believed() -> None:
    for raw in (b"", b"[]", b"null", b"{}", b'{"model": 3}', b"\xff", b"[" * 100_000):
        assert decode_state(raw) is None

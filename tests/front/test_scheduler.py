"""The queue of one model, case by case: who computes what, who waits, who is refused. Random walks are in
`test_scheduler_walks`.
"""

from __future__ import annotations

from itertools import count

from edge_agent.front.errors import DeadlinePassed, NotServing, Overloaded
from edge_agent.front.routes import ModelRoute, TensorSpec, WorkerAddress
from edge_agent.front.scheduler import RETURNS_MAX, Command, Fail, Hung, Job, Lost, ModelScheduler, Released, Send

QUEUE_MAX, HUNG_AFTER_S, HOLD_S, DEADLINE_S = 4, 30.0, 2.0, 30.0
NAMES = count()


def route(digest: str, *workers: str, inputs: str = "x") -> ModelRoute:
    return ModelRoute(
        state="serving" if workers else "loading",
        version="1",
        digest=digest,
        inputs=(TensorSpec(inputs, "FP32", (-1, 4)),),
        workers=tuple(WorkerAddress(name, f"/{name}") for name in workers),
    )


def serving(digest: str = "A", *workers: str) -> ModelScheduler:
    """A scheduler whose workers are connected and routed."""
    scheduler = ModelScheduler(QUEUE_MAX, HUNG_AFTER_S)
    scheduler.set_route(route(digest, *workers), 0.0)
    for worker in workers:
        scheduler.connected(worker, digest, 0.0)
    return scheduler


def a_job(scheduler: ModelScheduler, now_s: float = 0.0) -> Job:
    name = f"request {next(NAMES)}"
    return Job(name, scheduler.route, now_s + DEADLINE_S, now_s + HOLD_S)


def submit(scheduler: ModelScheduler, now_s: float = 0.0) -> tuple[Job, list[Command]]:
    job = a_job(scheduler, now_s)
    return job, scheduler.submit(job, now_s)


def sent(commands: list[Command]) -> list[tuple[str, Job]]:
    return [(command.worker_id, command.job) for command in commands if isinstance(command, Send)]


def failed(commands: list[Command]) -> list[tuple[Job, type]]:
    return [(command.job, type(command.error)) for command in commands if isinstance(command, Fail)]


def test_the_first_worker_computes_one_and_has_one_waiting_the_spare_stands_by() -> None:
    scheduler = serving("A", "first", "spare")
    places = [worker for _ in range(3) for worker, _ in sent(submit(scheduler)[1])]
    assert places == ["first", "first"]
    assert (scheduler.in_flight, scheduler.waiting) == (2, 1)


def test_the_oldest_waiting_request_follows_each_answer() -> None:
    scheduler = serving("A", "w")
    one, _ = submit(scheduler)
    submit(scheduler)
    three, _ = submit(scheduler)
    submit(scheduler)
    assert sent(scheduler.answered("w", one, 0.0)) == [("w", three)]


def test_a_full_queue_refuses_at_once_and_keeps_what_waits() -> None:
    scheduler = serving("A", "w")
    for _ in range(2 + QUEUE_MAX):
        assert failed(submit(scheduler)[1]) == []
    job, commands = submit(scheduler)
    assert failed(commands) == [(job, Overloaded)]
    assert scheduler.waiting == QUEUE_MAX


def test_overload_and_no_worker_are_503_with_a_time_to_come_back() -> None:
    for error in (Overloaded("x"), NotServing("x")):
        assert (error.status, error.retry_after_s) == (503, 1)


def test_a_request_is_held_while_a_rung_comes_up() -> None:
    scheduler = serving("A")
    job, commands = submit(scheduler)
    assert commands == []
    assert scheduler.tick(HOLD_S - 0.1) == []
    scheduler.set_route(route("B", "late"), 1.9)
    assert sent(scheduler.connected("late", "B", 1.9)) == [("late", job)]


def test_a_request_is_held_no_longer_than_stated_and_told_the_state() -> None:
    scheduler = serving("A")
    job, _ = submit(scheduler)
    (command,) = scheduler.tick(HOLD_S)
    assert isinstance(command, Fail)
    assert (command.job, command.error.status) == (job, 503)
    assert "loading" in command.error.text


def test_a_request_that_waits_behind_others_is_not_ended_by_the_hold_but_by_its_deadline() -> None:
    scheduler = serving("A", "w")
    jobs = [submit(scheduler)[0] for _ in range(3)]
    assert scheduler.tick(HOLD_S) == []
    scheduler.answered("w", jobs[0], 1.0)
    last, _ = submit(scheduler, 1.0)
    assert (last, DeadlinePassed) in failed(scheduler.tick(1.0 + DEADLINE_S))


def test_a_dead_workers_request_is_replayed_alone_on_the_spare_before_what_waits() -> None:
    scheduler = serving("A", "first", "spare")
    computing, behind, waiting = (submit(scheduler)[0] for _ in range(3))
    commands = scheduler.lost("first", 1.0, begun=True)
    assert sent(commands) == [("spare", computing)], "nothing else goes there before the answer"
    assert commands[0] == Lost("first", computing, poison=False, replayed=True)
    assert sent(scheduler.answered("spare", computing, 1.0)) == [("spare", behind), ("spare", waiting)]


def test_a_replay_waits_until_a_worker_is_empty() -> None:
    scheduler = serving("A", "first", "spare")
    alone, second = (submit(scheduler)[0] for _ in range(2))
    scheduler.lost("first", 1.0, begun=True)
    assert sent(scheduler.answered("spare", alone, 1.0)) == [("spare", second)]
    scheduler.set_route(route("A", "spare", "third"), 2.0)
    waiting, _ = submit(scheduler, 2.0)
    assert sent(scheduler.connected("third", "A", 2.0)) == []
    commands = scheduler.lost("spare", 3.0, begun=True)
    assert sent(commands) == [("third", second)]
    assert sent(scheduler.answered("third", second, 3.0)) == [("third", waiting)]


def test_the_second_death_is_the_requests_fault_and_says_so() -> None:
    scheduler = serving("A", "first", "spare")
    job, _ = submit(scheduler)
    scheduler.lost("first", 1.0, begun=True)
    fail, lost = scheduler.lost("spare", 2.0, begun=True)
    assert isinstance(fail, Fail)
    assert (fail.job, fail.error.status) == (job, 500)
    assert "ended two workers" in fail.error.text
    assert lost == Lost("spare", job, poison=True, replayed=False)


def test_who_only_stood_behind_a_poison_request_is_not_suspected() -> None:
    scheduler = serving("A", "first", "spare")
    _, innocent = submit(scheduler)[0], submit(scheduler)[0]
    scheduler.lost("first", 1.0, begun=True)
    scheduler.lost("spare", 2.0, begun=True)
    scheduler.set_route(route("A", "third"), 3.0)
    assert sent(scheduler.connected("third", "A", 3.0)) == [("third", innocent)]
    assert (innocent.replays, innocent.alone) == (0, False)


def test_a_request_that_no_worker_had_begun_is_not_suspected_and_keeps_its_place() -> None:
    scheduler = serving("A", "first", "spare")
    delivered, behind, waiting = (submit(scheduler)[0] for _ in range(3))
    commands = scheduler.lost("first", 1.0, begun=False)
    assert commands[0] == Lost("first", None, poison=False, replayed=False)
    assert sent(commands) == [("spare", delivered), ("spare", behind)]
    assert (delivered.replays, delivered.alone) == (0, False)
    assert scheduler.waiting == 1 and not waiting.over


def test_workers_that_die_before_they_begin_are_believed_a_bounded_number_of_times() -> None:
    workers = [f"w{number}" for number in range(RETURNS_MAX + 2)]
    scheduler = serving("A", *workers)
    job, _ = submit(scheduler)
    for worker in workers[:RETURNS_MAX]:
        scheduler.lost(worker, 1.0, begun=False)
    assert job.replays == 0
    scheduler.lost(workers[-2], 1.0, begun=False)
    assert (job.replays, job.alone) == (1, True), "now it counts as a death while it was computed"
    assert [fail.job for fail in scheduler.lost(workers[-1], 1.0, begun=False) if isinstance(fail, Fail)] == [job]


def test_an_idle_workers_death_names_no_suspect() -> None:
    scheduler = serving("A", "first", "spare")
    assert scheduler.lost("spare", 1.0, begun=True) == [Lost("spare", None, poison=False, replayed=False)]
    assert scheduler.lost("spare", 1.0, begun=True) == [], "told once"


def test_a_replay_stays_with_its_snapshot_while_that_one_is_routed() -> None:
    scheduler = serving("A", "first")
    scheduler.connected("next", "B", 0.0)
    job, _ = submit(scheduler)
    assert sent(scheduler.lost("first", 1.0, begun=True)) == [], "B is connected, and not routed"
    commands = scheduler.set_route(route("A", "again"), 1.0) + scheduler.connected("again", "A", 1.0)
    assert sent(commands) == [("again", job)]


def test_after_a_fallback_the_replay_goes_to_what_has_taken_the_place() -> None:
    scheduler = serving("A", "first")
    scheduler.connected("older", "B", 0.0)
    job, _ = submit(scheduler)
    scheduler.lost("first", 1.0, begun=True)
    assert sent(scheduler.set_route(route("B", "older"), 1.0)) == [("older", job)]


def test_after_a_switch_no_request_goes_to_the_old_worker_and_those_in_flight_finish_there() -> None:
    scheduler = serving("A", "old")
    one, two, three = (submit(scheduler)[0] for _ in range(3))
    scheduler.connected("new", "B", 0.0)
    assert sent(scheduler.set_route(route("B", "new"), 1.0)) == [("new", three)]
    assert sent(submit(scheduler, 1.0)[1])[0][0] == "new"
    assert scheduler.answered("old", one, 1.0) == []
    assert scheduler.answered("old", two, 1.0) == [Released("old")]


def test_an_idle_worker_is_released_by_the_switch_itself() -> None:
    scheduler = serving("A", "old")
    scheduler.connected("new", "B", 0.0)
    assert scheduler.set_route(route("B", "new"), 1.0) == [Released("old")]
    assert scheduler.is_ready()


def test_a_request_that_was_checked_against_another_interface_is_not_computed() -> None:
    scheduler = serving("A")
    job, _ = submit(scheduler)
    commands = scheduler.set_route(route("B", "new", inputs="other"), 1.0) + scheduler.connected("new", "B", 1.0)
    assert failed(commands) == [(job, NotServing)]
    assert sent(commands) == []


def test_a_hung_worker_is_told_once_its_clients_are_answered_and_the_spare_takes_over() -> None:
    scheduler = serving("A", "first", "spare")
    stuck, behind = (submit(scheduler)[0] for _ in range(2))
    commands = scheduler.tick(HUNG_AFTER_S)
    assert failed(commands) == [(stuck, DeadlinePassed), (behind, DeadlinePassed)]
    assert [c.job for c in commands if isinstance(c, Hung)] == [stuck]
    assert scheduler.is_ready()
    new, commands = submit(scheduler, HUNG_AFTER_S)
    assert sent(commands) == [("spare", new)]
    assert scheduler.tick(HUNG_AFTER_S + 1) == []
    assert sent(scheduler.lost("first", HUNG_AFTER_S + 2, begun=True)) == [], "nobody waits for those answers any more"


def test_a_lone_hung_worker_is_not_ready_until_it_answers() -> None:
    scheduler = serving("A", "only")
    stuck, _ = submit(scheduler)
    scheduler.tick(HUNG_AFTER_S)
    assert not scheduler.is_ready()
    scheduler.answered("only", stuck, HUNG_AFTER_S + 1)
    assert scheduler.is_ready()


def test_a_worker_is_not_blamed_for_the_time_that_a_request_waited_before() -> None:
    scheduler = serving("A")
    job, _ = submit(scheduler)
    job.hold_until_s = DEADLINE_S
    scheduler.set_route(route("A", "w"), DEADLINE_S - 0.1)
    assert sent(scheduler.connected("w", "A", DEADLINE_S - 0.1)) == [("w", job)]
    commands = scheduler.tick(DEADLINE_S)
    assert failed(commands) == [(job, DeadlinePassed)]
    assert [c for c in commands if isinstance(c, Hung)] == []
    assert [type(c) for c in scheduler.tick(DEADLINE_S - 0.1 + HUNG_AFTER_S)] == [Hung]


def test_a_request_whose_client_left_is_not_sent_and_not_sent_again() -> None:
    scheduler = serving("A", "first", "spare")
    computing, behind, waiting = (submit(scheduler)[0] for _ in range(3))
    for job in (computing, behind, waiting):
        scheduler.cancel(job, 1.0)
    assert (scheduler.in_flight, scheduler.waiting) == (2, 0)
    assert scheduler.lost("first", 2.0, begun=True) == [Lost("first", computing, poison=False, replayed=False)]


def test_a_replay_whose_client_left_makes_way_for_the_next() -> None:
    scheduler = serving("A", "first")
    computing, behind = (submit(scheduler)[0] for _ in range(2))
    scheduler.lost("first", 1.0, begun=True)
    scheduler.set_route(route("A", "old", "second"), 1.0)
    scheduler.connected("second", "A", 1.0)
    assert scheduler.waiting == 1
    scheduler.answered("second", computing, 1.0)
    assert scheduler.in_flight == 1
    scheduler.lost("second", 2.0, begun=True)
    third, commands = submit(scheduler, 2.0)
    assert sent(commands) == [], "one of them has to be alone"
    assert sent(scheduler.cancel(behind, 2.0) + scheduler.set_route(route("A", "new"), 2.0)) == []
    assert sent(scheduler.connected("new", "A", 2.0)) == [("new", third)]


def test_a_worker_that_left_the_route_while_it_was_connected_gets_nothing() -> None:
    scheduler = serving("A", "w")
    assert scheduler.connected("gone", "A", 0.0) == [Released("gone")]


def test_the_first_worker_of_the_route_computes_whenever_it_was_connected() -> None:
    scheduler = ModelScheduler(QUEUE_MAX, HUNG_AFTER_S)
    scheduler.set_route(route("A", "first", "spare"), 0.0)
    scheduler.connected("spare", "A", 0.0)
    scheduler.connected("first", "A", 0.0)
    job, commands = submit(scheduler)
    assert sent(commands) == [("first", job)]


def test_an_end_answers_what_waits_and_what_still_comes() -> None:
    scheduler = serving("A", "w")
    jobs = [submit(scheduler)[0] for _ in range(3)]
    assert failed(scheduler.end()) == [(jobs[2], NotServing)]
    late, commands = submit(scheduler)
    assert failed(commands) == [(late, NotServing)]
    assert scheduler.answered("w", jobs[0], 1.0) == []

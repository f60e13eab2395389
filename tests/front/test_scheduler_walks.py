"""Random walks of the scheduler: whatever happens in whatever order, nobody is forgotten, answered twice or sent
wrongly. Single cases are in `test_scheduler`.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.front.routes import ModelRoute, WorkerAddress
from edge_agent.front.scheduler import (
    IN_FLIGHT_MAX,
    RETURNS_MAX,
    Command,
    Fail,
    Hung,
    Job,
    Lost,
    ModelScheduler,
    Released,
    Send,
)

QUEUE_MAX, HUNG_AFTER_S, HOLD_S, DEADLINE_S = 5, 3.0, 1.0, 4.0
WORKERS = [f"{digest}{number}" for digest in "AB" for number in range(3)]  # the first letter is the snapshot


class Walk(RuleBasedStateMachine):
    """The world around one scheduler: clients, workers, routes and time, each free to do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = ModelScheduler(QUEUE_MAX, HUNG_AFTER_S)
        self.now_s = 0.0
        self.connected: dict[str, list[Job]] = {}
        self.left: set[str] = set()
        self.open: set[int] = set()  # requests whose clients still wait
        self.jobs: list[Job] = []
        self.killed: dict[int, int] = {}  # how many workers died while they computed this request
        self.hung: set[str] = set()

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send(worker_id, job):
                    assert worker_id in {worker.worker_id for worker in self.scheduler.route.workers}
                    assert worker_id[0] == self.scheduler.route.digest
                    assert worker_id not in self.hung
                    assert id(job) in self.open, "nobody waits for it"
                    self.connected[worker_id].append(job)
                    at = self.connected[worker_id]
                    assert len(at) <= IN_FLIGHT_MAX
                    assert len(at) == 1 or not any(job.alone for job in at), "a replay is alone"
                    assert self.killed.get(id(job), 0) < 2, "replayed at most once"
                case Fail(job, _):
                    self.open.remove(id(job))  # raises when it was answered before
                case Released(worker_id):
                    assert self.connected.pop(worker_id) == []
                case Hung(worker_id):
                    assert worker_id not in self.hung, "told once"
                    self.hung.add(worker_id)

    @rule()
    def ask(self) -> None:
        job = Job(None, self.scheduler.route, self.now_s + DEADLINE_S, self.now_s + HOLD_S)
        self.jobs.append(job)
        self.open.add(id(job))
        before = self.scheduler.waiting
        self.obey(self.scheduler.submit(job, self.now_s))
        assert id(job) in self.open or before >= QUEUE_MAX, "refused without need"

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if id(job) in self.open]))
        self.open.remove(id(job))
        self.obey(self.scheduler.cancel(job, self.now_s))

    @rule(digest=st.sampled_from("AB"), numbers=st.permutations(range(3)), size=st.integers(0, 3))
    def switch(self, digest: str, numbers: list[int], size: int) -> None:
        workers = tuple(WorkerAddress(f"{digest}{number}", "") for number in numbers[:size])
        self.obey(self.scheduler.set_route(ModelRoute("serving", digest=digest, workers=workers), self.now_s))

    @rule(worker=st.sampled_from(WORKERS))
    def connect(self, worker: str) -> None:
        if worker not in self.connected:
            self.connected[worker] = []
            self.obey(self.scheduler.connected(worker, worker[0], self.now_s))

    @precondition(lambda self: any(self.connected.values()))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker, jobs in self.connected.items() if jobs]))
        job = self.connected[worker].pop(0)
        self.open.discard(id(job))
        self.hung.discard(worker)
        self.obey(self.scheduler.answered(worker, job, self.now_s))

    @precondition(lambda self: self.connected)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.connected)))
        jobs = self.connected.pop(worker)
        self.hung.discard(worker)
        begun = data.draw(st.booleans()) or any(job.returns == RETURNS_MAX for job in jobs[:1])
        suspect = jobs[0] if jobs and begun else None
        deaths = 0
        if suspect is not None:
            deaths = self.killed[id(suspect)] = self.killed.get(id(suspect), 0) + 1
        waited_for = suspect is not None and id(suspect) in self.open
        commands = self.scheduler.lost(worker, self.now_s, begun=begun)
        lost = Lost(worker, suspect, poison=deaths == 2, replayed=waited_for and deaths == 1)
        assert [command for command in commands if isinstance(command, Lost)] == [lost]
        self.obey(commands)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.obey(self.scheduler.tick(self.now_s))
        late = [job for job in self.jobs if id(job) in self.open and self.now_s >= job.deadline_s]
        assert late == [], "a client waits beyond the deadline"

    @invariant()
    def everybody_is_somewhere(self) -> None:
        at_workers = {id(job) for jobs in self.connected.values() for job in jobs} & self.open
        assert self.scheduler.waiting == len(self.open) - len(at_workers)
        assert self.scheduler.in_flight == sum(map(len, self.connected.values()))

    @invariant()
    def nobody_waits_while_a_worker_is_idle(self) -> None:
        routed = [worker.worker_id for worker in self.scheduler.route.workers]
        able = [worker for worker in routed if worker in self.connected and worker not in self.hung]
        assert self.scheduler.is_ready() == bool(able)
        assert not self.scheduler.waiting or all(self.connected[worker] for worker in able[:1])

    def teardown(self) -> None:
        self.obey(self.scheduler.end())
        assert self.scheduler.waiting == 0


Walk.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestWalk = Walk.TestCase

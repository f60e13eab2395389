"""The fork server: imports one engine once, then forks a worker per model in milliseconds. It loads nothing itself.

Forking is safe because exactly one thread runs here (asserted at each fork), and no predictor exists before it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
from collections import OrderedDict
from typing import Any, Dict, Optional

from edge_agent.worker import wire
from edge_agent.worker.engines import make_engine
from edge_agent.worker.engines.base import Engine, EngineUnavailable
from edge_agent.worker.serve import Connection, ControlServer, WorkerServer

EXITS_REMEMBERED_MAX = 64
PR_SET_NAME = 15  # prctl(2)


class ZygoteServer(ControlServer):
    """Ops: spawn, exit. Event: exited{worker_id, pid, exit_code, signal}, told again to a new controller."""

    def __init__(self, path: str, orphan_timeout_s: float, engine_name: str) -> None:
        self._engine: Optional[Engine] = None
        self._detail = ""
        try:
            self._engine = make_engine(engine_name)
        except EngineUnavailable as error:
            self._detail = str(error)
        self._engine_name = engine_name
        self._children: Dict[int, str] = {}
        self._exits: "OrderedDict[int, Dict[str, Any]]" = OrderedDict()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        super().__init__(path, orphan_timeout_s)
        self.selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wake)

    def describe(self) -> Dict[str, Any]:
        """Who this is, and whether the engine is here."""
        return {
            "kind": "zygote",
            "pid": os.getpid(),
            "engine": self._engine_name,
            "engine_version": self._engine.version if self._engine else None,
            "python": sys.executable,
            "engine_available": self._engine is not None,
            "detail": self._detail,
        }

    def on_controller(self) -> None:
        """Tell a new controller how workers ended: it may not have been there."""
        for exited in list(self._exits.values()):
            self._tell(exited)

    def on_op(self, connection: Connection, op: str, header: Dict[str, Any]) -> None:
        """spawn, exit."""
        if op == "spawn":
            self._spawn(connection, header)
        elif op == "exit":
            self.answer(connection, header, {})
            self.running = False
        else:
            self.refuse(connection, header, "unknown_op", "no op %r" % op)

    def each_turn(self) -> None:
        """Reap children and tell how they ended."""
        while self._children:  # bounded by the number of children
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            exited = dict(_how_it_ended(status), event="exited", worker_id=self._children.pop(pid, ""), pid=pid)
            self._exits[pid] = exited
            while len(self._exits) > EXITS_REMEMBERED_MAX:
                self._exits.popitem(last=False)
            self._tell(exited)

    def _tell(self, exited: Dict[str, Any]) -> None:
        if self.controller is not None:
            try:
                wire.send_frame(self.controller.sock, exited)
            except OSError:
                return  # the next controller is told again

    def _drain_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return

    def _spawn(self, connection: Connection, header: Dict[str, Any]) -> None:
        fault = _spawn_fault(header)
        if fault:
            self.refuse(connection, header, "malformed", fault)
            return
        if self._engine is None:
            self.refuse(connection, header, "engine_missing", self._detail)
            return
        threads = _thread_count()
        if threads != 1:
            self.refuse(connection, header, "threads", "%d threads run here: a fork would not be safe" % threads)
            return
        worker_id = header["worker_id"]
        try:
            pid = os.fork()
        except OSError as error:
            self.refuse(connection, header, "memory", "cannot fork: %s" % error)
            return
        if pid == 0:
            _become_worker(self, header)
        self._children[pid] = worker_id
        self.answer(connection, header, {"pid": pid})

    def close_for_child(self) -> Engine:
        """In the child: give back everything that belongs to the fork server, keep the imported engine."""
        engine = self._engine
        assert engine is not None
        for key in list(self.selector.get_map().values()):
            os.close(key.fd)
        os.close(self._wake_write)
        self.selector.close()
        return engine


def _spawn_fault(header: Dict[str, Any]) -> Optional[str]:
    """What is wrong with a spawn request, or None. address_space_bytes may be None: no bound."""
    for name, kinds in (("worker_id", str), ("socket", str), ("orphan_timeout_s", (int, float))):
        if not isinstance(header.get(name), kinds) or not header[name]:
            return "spawn: %s is %r" % (name, header.get(name))
    bound = header.get("address_space_bytes")
    if bound is not None and not (isinstance(bound, int) and 0 < bound < 1 << 62):
        return "spawn: address_space_bytes is %r" % (bound,)
    return None


def _become_worker(zygote: ZygoteServer, header: Dict[str, Any]) -> None:
    """Never returns: the forked process serves, then ends without running the fork server's exit handlers."""
    code, worker_id = 70, header["worker_id"]
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        engine = zygote.close_for_child()
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"holdfast-worker", 0, 0, 0)
        if header.get("address_space_bytes"):
            limit = _address_space_bytes() + header["address_space_bytes"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        scratch = _use_scratch_folder(header["socket"] + wire.SCRATCH_SUFFIX)
        WorkerServer(header["socket"], header["orphan_timeout_s"], worker_id, engine).run()
        shutil.rmtree(scratch, ignore_errors=True)
        code = 0
    except BaseException as error:  # the last thing that this process can say
        os.write(2, ("holdfast-worker %s ended: %r\n" % (worker_id, error)).encode())
    finally:
        os._exit(code)


def _use_scratch_folder(path: str) -> str:
    """Temporary files of the engine go to a folder of this worker's own: the runtime removes it if we are killed."""
    os.makedirs(path, 0o700, exist_ok=True)  # a load that was killed is tried again under the same name
    os.environ["TMPDIR"] = tempfile.tempdir = path
    return path


def _how_it_ended(status: int) -> Dict[str, Optional[int]]:
    if os.WIFSIGNALED(status):
        return {"exit_code": None, "signal": os.WTERMSIG(status)}
    return {"exit_code": os.WEXITSTATUS(status), "signal": None}


def _status_number(field: str) -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise RuntimeError("no %s in /proc/self/status" % field)


def _thread_count() -> int:
    return _status_number("Threads")


def _address_space_bytes() -> int:
    """What is mapped already (an imported engine maps gigabytes): the bound is on what a model adds."""
    return _status_number("VmSize") * 1024

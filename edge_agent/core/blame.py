"""Whom the end of a worker process speaks against: nobody, the surroundings or the snapshot; pure. What follows from
blame is `serving`'s and `candidate`'s.
"""

from __future__ import annotations

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason

SIGKILL = 9
# Ends that are the process's own fault. SIGKILL and SIGTERM come from outside; memory growth ends in SIGABRT or an
# exit code, because the address space is bounded.
CRASH_SIGNALS = {4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV", 31: "SIGSYS"}


def is_crash(exit_code: int | None, signal_number: int | None) -> bool:
    """Whether a process ended by its own fault (an unknown status speaks against nobody)."""
    if signal_number is not None:
        return signal_number in CRASH_SIGNALS
    return exit_code is not None and exit_code != 0


def is_loaded_again(reason: Reason, signal_number: int | None, attempt: int) -> bool:
    """Whether a load is tried again at once: it was killed from outside, or there was no process, not too often."""
    killed = reason is Reason.LOAD_CRASH and signal_number == SIGKILL
    return (killed or reason is Reason.NO_WORKER) and attempt < limits.LOAD_KILLED_MAX


def reason_of_failed_load(reason: Reason, signal_number: int | None) -> Reason:
    """What is recorded: whoever kills a load again and again is taken for the kernel, out of memory."""
    return Reason.LOAD_MEMORY if reason is Reason.LOAD_CRASH and signal_number == SIGKILL else reason

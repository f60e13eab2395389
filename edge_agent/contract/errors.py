"""The error tree, by who has to act; every foreign error is translated into it once, at the seam.

Reasons that are stored or reported (quarantine, fallback, ...) are not errors: they live in `reasons`.

HoldfastError
├── Rejected      the caller's fault: the same call again will fail again
├── Unavailable   the surroundings' fault: try again later
├── Corrupt       stored bytes are not what was written: ours to survive
└── Bug           our fault: crash and be restarted
"""

from __future__ import annotations

from edge_agent.contract.reasons import Reason


class HoldfastError(Exception):
    """Base of all errors that Holdfast raises on purpose. Never raised itself.

    message: one line, what is wrong. reason: the stored or reported reason, if there is one.
    next_step: one line, what to do; taken from the reason when it is not given.
    """

    exit_code = 1

    def __init__(self, message: str, *, reason: Reason | None = None, next_step: str = "") -> None:
        if type(self) is HoldfastError:
            raise TypeError("HoldfastError is abstract: raise Rejected, Unavailable, Corrupt or Bug")
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.next_step = next_step or (reason.next_step if reason is not None else "")

    def __str__(self) -> str:
        return f"{self.message}. {self.next_step}" if self.next_step else self.message

    def document(self) -> dict[str, bool | str | None]:
        """What every command prints with --json, and the coordinator's API answers, when something is refused."""
        reason = self.reason.value if self.reason is not None else None
        return {"ok": False, "reason": reason, "message": self.message, "next_step": self.next_step or None}


class Rejected(HoldfastError):
    """The caller asked for something that cannot be: asking again changes nothing."""


class Unavailable(HoldfastError):
    """Something that we need is not there now: asking again later may help."""


class Corrupt(HoldfastError):
    """Stored bytes are not the bytes that were written; the device survives this by itself."""


class Bug(HoldfastError):
    """A promise between our own parts is broken: the process ends and is restarted."""

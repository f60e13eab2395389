"""From stored bytes to a proven worker: verify the evidence, hash into sealed memfds, load, run the golden vectors.

Which snapshot to load is decided in `core`; processes are `pool`'s and `zygotes`'.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any

from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.manifest import EngineProfile, Manifest
from edge_agent.contract.reasons import Reason
from edge_agent.runtime.channel import Channel, Header, PeerRefused
from edge_agent.runtime.library import Library

# What a worker says about a load that did not work -> the reason under which it is recorded.
REASON_OF_WORKER_WORD: dict[str, Reason] = {
    "load_failed": Reason.LOAD_FAILED,
    "malformed": Reason.LOAD_FAILED,
    "proof": Reason.PROOF,
    "non_finite": Reason.NON_FINITE,
    "engine_missing": Reason.ENGINE_MISSING,
    "memory": Reason.LOAD_MEMORY,
}


class LoadFailed(HoldfastError):
    """A snapshot could not be brought up; `reason` is what is recorded."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail, reason=reason)
        self.reason: Reason = reason


@dataclass
class LoadPlan:
    """Everything that a worker needs, with the bytes already verified; `close` gives the descriptors back."""

    manifest: Manifest
    digest: str
    profile: EngineProfile
    fds: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Close our copies of the sealed files (the worker has its own by then)."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds.clear()

    def request_fields(self) -> dict[str, Any]:
        """The fields of the worker's `load` request."""
        profile, manifest = self.profile, self.manifest
        roles = {profile.program: "program"}
        if profile.parameters is not None:
            roles[profile.parameters] = "parameters"
        return {
            "digest": self.digest,
            "format": profile.format,
            "files": [{"name": name, "role": roles.get(name, "golden")} for name in self.names],
            "inputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in manifest.inputs],
            "outputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in manifest.outputs],
            "options": {"threads": profile.threads, "onednn": profile.onednn},
            "golden": {
                "inputs": manifest.golden.inputs,
                "outputs": manifest.golden.outputs,
                "count": manifest.golden.count,
            },
            "tolerance": {"rtol": profile.tolerance.rtol, "atol": profile.tolerance.atol},
        }


async def plan_load(library: Library, digest: str, engines: tuple[str, ...]) -> LoadPlan:
    """Verify evidence and bytes and seal them. Raises LoadFailed with the reason to record."""
    try:
        verified = await library.verified(digest)
        manifest = verified.manifest
        profile = manifest.profile_for(engines)
        if profile is None:
            raise LoadFailed(Reason.INCOMPATIBLE, f"{manifest.label()} has no profile for engines {', '.join(engines)}")
        plan = LoadPlan(manifest, digest, profile)
        golden = manifest.golden
        wanted = dict.fromkeys((*profile.files(), *golden.inputs.values(), *golden.outputs.values()))
        try:
            for path in wanted:
                plan.fds.append(await library.open_sealed(digest, manifest, path))
                plan.names.append(path)
        except BaseException:
            plan.close()
            raise
    except Corrupt as error:
        raise LoadFailed(Reason.DAMAGE, error.message) from error
    except (Rejected, Unavailable) as error:
        raise LoadFailed(error.reason or Reason.LOAD_REFUSED, error.message) from error
    return plan


async def load(channel: Channel, plan: LoadPlan, *, timeout_s: float) -> Header:
    """Load and prove in the worker; its answer. Raises LoadFailed, or Unavailable when the worker died meanwhile."""
    try:
        header, _ = await channel.request("load", timeout_s=timeout_s, fds=plan.fds, **plan.request_fields())
    except PeerRefused as refusal:
        reason = REASON_OF_WORKER_WORD.get(refusal.word, Reason.LOAD_FAILED)
        raise LoadFailed(reason, refusal.text) from refusal
    except Unavailable as error:
        if channel.closed:
            raise
        raise LoadFailed(Reason.LOAD_TIMEOUT, f"not loaded within {timeout_s:g} s") from error
    return header

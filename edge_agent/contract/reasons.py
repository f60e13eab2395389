"""Every reason that Holdfast stores, reports or answers with, in one enum; each with its log line and next step.

What a reason leads to is decided in `core`; the longer text for people is docs/reasons.md (a test keeps it whole).
"""

from __future__ import annotations

from enum import StrEnum


class Blame(StrEnum):
    """Which kind of record a reason belongs to."""

    QUARANTINE = "quarantine"  # the snapshot failed here: not tried again in this generation
    REFUSAL = "refusal"  # what was offered or asked was turned away; nothing changed
    FALLBACK = "fallback"  # why another snapshot serves than the wanted one
    DECLINED = "declined"  # could not be done now: not a failure of the snapshot


class Reason(StrEnum):
    """The word in documents, logs and metrics; with its blame, its log line and its next step (a sentence each)."""

    blame: Blame
    log_line: str
    next_step: str

    def __new__(cls, word: str, blame: Blame, log_line: str, next_step: str) -> Reason:
        """As http.HTTPStatus does it: the value is the word alone, the rest are attributes."""
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.blame, reason.log_line, reason.next_step = blame, log_line, next_step
        return reason

    # ---- what a snapshot is quarantined or refused for
    SIGNATURE = (
        "signature",
        Blame.REFUSAL,
        "the signed metadata does not lead from the pinned root to this manifest",
        "Get the bundle again from the publisher; if it repeats, check that the device pins the publisher's root",
    )
    EXPIRED = (
        "expired",
        Blame.REFUSAL,
        "the signed metadata has expired: no new content is taken from it",
        "Have the publisher sign fresh metadata and make the bundle again; check this device's clock",
    )
    METADATA_ROLLBACK = (
        "metadata_rollback",
        Blame.REFUSAL,
        "the signed metadata is older than what this device has seen",
        "Make the bundle again from the publisher's present repository",
    )
    MALFORMED = (
        "malformed",
        Blame.REFUSAL,
        "the document or file does not have the agreed form",
        "Make it again with `fleet snapshot pack` and `fleet bundle` of a version that this agent understands",
    )
    TOO_LARGE = (
        "too_large",
        Blame.REFUSAL,
        "a stated bound was exceeded",
        "Make it smaller, or raise the bound where it is configurable",
    )
    TRUNCATED = (
        "truncated",
        Blame.REFUSAL,
        "the file ends before its content does",
        "Copy the file again and compare its size with the original",
    )
    CHUNK_MISMATCH = (
        "chunk_mismatch",
        Blame.REFUSAL,
        "a chunk does not have the hash that the manifest states, or no verified manifest names it",
        "Offer the chunk again from an undamaged bundle",
    )
    WRONG_SLOT = (
        "wrong_slot",
        Blame.REFUSAL,
        "the manifest names a model that this device does not run",
        "Add [models.NAME] to agent.toml, or send the snapshot to a device that runs this model",
    )
    INCOMPATIBLE = (
        "incompatible",
        Blame.REFUSAL,
        "the manifest is for another type of device, or has no engine profile that this device offers",
        "Pack the snapshot for this device type and engine, or correct device_type in agent.toml",
    )
    BELOW_FLOOR = (
        "below_floor",
        Blame.REFUSAL,
        "the release is below the publisher's floor for this model",
        "Choose a release that is at or above the floor",
    )
    VERSION_CONFLICT = (
        "version_conflict",
        Blame.REFUSAL,
        "this name@version is already known with other bytes",
        "Publish changed bytes under a new version: a version is never reused",
    )
    QUARANTINED = (
        "quarantined",
        Blame.REFUSAL,
        "this snapshot already failed here in this generation",
        "Mend and publish a new version; to try the same one again: edge-agent import --retry",
    )
    UNKNOWN_VERSION = (
        "unknown_version",
        Blame.REFUSAL,
        "no such snapshot is on this device",
        "See `edge-agent status` for the versions that are here, or import the one that you want",
    )
    INTERFACE_CHANGE = (
        "interface_change",
        Blame.REFUSAL,
        "the snapshot has another interface than the one that serves, and policy does not allow that",
        "Set allow_interface_change = true for the model, once its clients understand the new interface",
    )
    STALE_ASSIGNMENT = (
        "stale_assignment",
        Blame.REFUSAL,
        "the assignment is older than what this device has taken, or of a coordinator that is not named any more",
        "Nothing to do if it was a late message; after a restored backup run `fleet resume`",
    )
    WRONG_DEVICE = (
        "wrong_device",
        Blame.REFUSAL,
        "the document speaks of another device than the one that it came to or from",
        "Look for a broker that lets devices write each other's topics",
    )
    NOT_ASSIGNED = (
        "not_assigned",
        Blame.REFUSAL,
        "what was offered or asked for is neither assigned to this device nor a repair of what it holds",
        "Assign the snapshot with `fleet rollout start`, or carry its bundle to the device",
    )
    UNKNOWN_DEVICE = (
        "unknown_device",
        Blame.REFUSAL,
        "the coordinator has never heard of such a device",
        "See `fleet devices list` for those that said hello",
    )
    NO_DEVICES = (
        "no_devices",
        Blame.REFUSAL,
        "no known device runs this model, so there is nobody to roll out to",
        "See `fleet devices list`; a device runs the models of its agent.toml",
    )
    NOT_AUTHORIZED = (
        "not_authorized",
        Blame.REFUSAL,
        "the token, password or key is not one that may do this",
        "Check the token file or the key, and who issued it",
    )
    OUT_OF_ORDER = (
        "out_of_order",
        Blame.REFUSAL,
        "the event does not belong to the present phase, so nothing was changed",
        "Nothing to do: a late or repeated message was turned away",
    )
    LOAD_CRASH = (
        "load_crash",
        Blame.QUARANTINE,
        "the engine's process died while it loaded the model",
        "The model file crashes the engine: export it again with the engine version that the device runs",
    )
    LOAD_FAILED = (
        "load_failed",
        Blame.QUARANTINE,
        "the engine refused the model",
        "Read the detail in `edge-agent status`; export the model again for this engine",
    )
    LOAD_TIMEOUT = (
        "load_timeout",
        Blame.QUARANTINE,
        "the model did not load and prove itself within the time limit",
        "Raise load_timeout_s if the model is large; else look for a hang at load",
    )
    LOAD_MEMORY = (
        "load_memory",
        Blame.QUARANTINE,
        "the model needs more memory than its manifest states and the limit allows",
        "State the right resources when packing, or give the device more memory",
    )
    PROOF = (
        "proof",
        Blame.QUARANTINE,
        "the golden vectors gave other outputs on this device than the publisher signed",
        "Compare engine versions; if they agree, the files are not the model that was published",
    )
    NON_FINITE = (
        "non_finite",
        Blame.QUARANTINE,
        "the model gave NaN or infinity where the publisher or the active model has numbers",
        "Look for missing parameters or an overflow in the exported model",
    )
    ERROR_RATE = (
        "error_rate",
        Blame.QUARANTINE,
        "more live requests failed with the candidate than policy allows",
        "Read the detail in `edge-agent history`; mend the model and publish a new version",
    )
    LATENCY = (
        "latency",
        Blame.QUARANTINE,
        "the candidate answers more slowly than policy allows, compared with what served before",
        "Make the model smaller, or raise latency_ratio_max for this rollout if that is meant",
    )
    DISAGREEMENT = (
        "disagreement",
        Blame.QUARANTINE,
        "the candidate decided otherwise than the active model on too many copies of live requests",
        "Compare both models on recent data; lower agreement_percent_min if the change is meant",
    )
    DRIFT = (
        "drift",
        Blame.QUARANTINE,
        "the candidate's decisions are distributed otherwise than those of the active model",
        "Compare both models on recent data; raise drift_max if the change is meant",
    )
    UNCLEAN_STARTS = (
        "unclean_starts",
        Blame.QUARANTINE,
        "the device went down without a clean stop again and again while this candidate was tried",
        "Look for a lack of memory, heat or power; try it again with a new rollout or `import --retry`",
    )
    PROBATION_CRASH = (
        "probation_crash",
        Blame.QUARANTINE,
        "the candidate's workers crashed on different requests while it was in probation",
        "Read the worker's log lines; mend the model and publish a new version",
    )
    # ---- why another snapshot serves than the wanted one
    DAMAGE = (
        "damage",
        Blame.FALLBACK,
        "stored bytes of the wanted snapshot are damaged and no loaded copy is left",
        "Import its bundle again: only the damaged chunks are taken, then the device climbs back by itself",
    )
    CRASH_LOOP = (
        "crash_loop",
        Blame.FALLBACK,
        "the workers of a confirmed snapshot crashed on different requests",
        "The device serves an older snapshot; mend the model, publish it, or go back: edge-agent rollback",
    )
    RESTART_LOOP = (
        "restart_loop",
        Blame.FALLBACK,
        "the device went down without a clean stop again and again while this confirmed snapshot served",
        "Look for a lack of memory, heat or power; the device tries the snapshot again a few times by itself",
    )
    LOAD_REFUSED = (
        "load_refused",
        Blame.FALLBACK,
        "the wanted snapshot did not load or prove itself again on this device",
        "The device serves an older snapshot; read the detail in `edge-agent history`",
    )
    OPERATOR = (
        "operator",
        Blame.FALLBACK,
        "an operator chose this snapshot on the device",
        "Nothing to do; import a newer version when it is wanted",
    )
    LADDER_EXHAUSTED = (
        "ladder_exhausted",
        Blame.FALLBACK,
        "no snapshot on this device verifies, loads and proves itself",
        "Import a bundle; check the factory snapshot and the engine with `edge-agent doctor`",
    )
    # ---- could not be done now
    DISK_FULL = (
        "disk_full",
        Blame.DECLINED,
        "there is no room to store the snapshot",
        "Free space in the state folder's file system, then offer the snapshot again",
    )
    READ_ONLY = (
        "read_only",
        Blame.DECLINED,
        "the state folder cannot be written: serving goes on, updates do not",
        "Make the state folder writable again; look for file system errors in the kernel log",
    )
    DISK_HANGS = (
        "disk_hangs",
        Blame.DECLINED,
        "the state folder's disk does not answer: serving goes on from memory, updates do not",
        "Look for a hung or frozen disk in the kernel log; what happened is written once it answers",
    )
    ENGINE_MISSING = (
        "engine_missing",
        Blame.DECLINED,
        "the worker's interpreter does not have the engine",
        "Install the engine for that interpreter, or set [engines.NAME] python in agent.toml; see `edge-agent doctor`",
    )
    NO_WORKER = (
        "no_worker",
        Blame.DECLINED,
        "no worker process could be started or kept alive long enough to load the snapshot",
        "Nothing speaks against the snapshot: look for a lack of memory or descriptors, then offer it again",
    )
    BUSY = (
        "busy",
        Blame.DECLINED,
        "another update of this model is under way",
        "Wait until it has ended (`edge-agent status`), then offer the snapshot again",
    )
    OFFER_ABANDONED = (
        "offer_abandoned",
        Blame.DECLINED,
        "whoever offered the snapshot stopped before all its chunks were here",
        "Offer the snapshot again: chunks that arrived are kept for a while and not asked for again",
    )
    NO_EVIDENCE = (
        "no_evidence",
        Blame.DECLINED,
        "the trial did not see enough answers of the candidate within its time",
        "Look for workers that do not stay up (`edge-agent history`), then offer the snapshot again",
    )
    PINNED = (
        "pinned",
        Blame.DECLINED,
        "an operator has pinned this model on the device",
        "Unpin it on the device with `edge-agent unpin`, or start a new rollout of the model",
    )
    OTHER_UPDATE = (
        "other_update",
        Blame.DECLINED,
        "another model of this device is being updated",
        "Nothing to do: it is taken when the other update has ended",
    )
    DISK_SHORT = (
        "disk_short",
        Blame.DECLINED,
        "less disk space is free than the device keeps for itself",
        "Free space in the state folder's file system, or lower [updates] disk_free_min_bytes",
    )
    MEMORY_SHORT = (
        "memory_short",
        Blame.DECLINED,
        "less memory is free than an update needs beside what serves",
        "End what else uses memory, or lower [updates] memory_free_min_bytes",
    )
    LOW_BATTERY = (
        "low_battery",
        Blame.DECLINED,
        "the battery holds less than [updates] battery_min_percent and is not being charged",
        "Nothing to do: it is taken when the battery is charged",
    )
    ON_BATTERY = (
        "on_battery",
        Blame.DECLINED,
        "the device runs on battery, and [updates] mains_only is set",
        "Nothing to do: it is taken when mains power is back",
    )
    POWER_MODE = (
        "power_mode",
        Blame.DECLINED,
        "the device is in a power mode in which [updates] power_modes allows no update",
        "Nothing to do: it is taken when the power mode has changed",
    )
    TOO_HOT = (
        "too_hot",
        Blame.DECLINED,
        "the device is hotter than [updates] temperature_max_c",
        "Nothing to do if it cools down; else look at fans, dust and sunlight",
    )
    OUTSIDE_WINDOW = (
        "outside_window",
        Blame.DECLINED,
        "it is outside the maintenance window of this device",
        "Nothing to do: it is taken when [updates] window opens",
    )
    PLANNING_STOPPED = (
        "planning_stopped",
        Blame.DECLINED,
        "the coordinator's database is older than what devices have seen, so it plans nothing",
        "Restore a newer backup, or accept the present database with `fleet resume`",
    )
    SUPERSEDED = (
        "superseded",
        Blame.DECLINED,
        "a newer wish for this model took its place",
        "Nothing to do",
    )


_BY_WORD = {reason.value: reason for reason in Reason}


def reason_from_word(word: str) -> Reason:
    """The reason with this word. Raises KeyError for a word that this version does not know."""
    return _BY_WORD[word]

"""Bounds that more than one room knows, with the unit in the name and the reason beside it; no code lives here.

Bounds of one file stand at its head; those that an operator may change are in `edge_agent/config.py`; the worker, which
imports nothing of the agent, has its own in `worker/wire.py`.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# ---- snapshots and manifests
CHUNK_BYTES = MIB  # one row of the store: a commit of this size never holds up a fallback
MANIFEST_BYTES_MAX = 4 * MIB  # 64 hex digits a chunk: enough for about 60 GiB of model
SNAPSHOT_FILES_MAX = 64  # all descriptors of a load travel in one message (the kernel allows 253)
SNAPSHOT_BYTES_MAX = 16 * GIB  # larger models do not fit a Jetson's memory
SNAPSHOT_CHUNKS_MAX = SNAPSHOT_BYTES_MAX // CHUNK_BYTES  # a publisher asks about so many at once
NAME_CHARS_MAX = 64
VERSION_CHARS_MAX = 64
PATH_CHARS_MAX = 200
TENSORS_MAX = 64  # inputs or outputs of one model; an index fits one byte
TENSOR_RANK_MAX = 8
ENGINE_PROFILES_MAX = 8
GOLDEN_VECTORS_MAX = 256  # a proof is seconds, not minutes
COMPATIBLE_MAX = 64
RELEASE_MAX = 2**53 - 1  # integers beyond are not the same in every JSON reader

# ---- signed metadata
METADATA_BYTES_MAX = MIB  # one TUF role file
ROOT_CHAIN_MAX = 64  # root rotations that one device may walk at once

# ---- documents between device and cloud
ASSIGNMENT_BYTES_MAX = 256 * KIB
POLICY_BYTES_MAX = 4 * KIB  # the largest one takes about 700 bytes
REPORT_BYTES_MAX = 64 * KIB
PRESENCE_BYTES_MAX = 48 * KIB  # a hello with 64 models and 64 engines, each character of a label escaped, takes 32
MODELS_PER_DEVICE_MAX = 64
MUST_UNDERSTAND_MAX = 32
JSON_DEPTH_MAX = 32  # deeper is an attack on the parser, not a document
DETAIL_CHARS_MAX = 500  # free text in a report or a log line

# ---- the line between device and coordinator
REPORTS_PER_BATCH_MAX = 100
REPORT_BATCH_BYTES_MAX = 256 * KIB  # a batch is cut where it would grow beyond
REPORT_BATCH_HEAD_BYTES = KIB  # of a batch, beside its reports
REPORT_NUMBER_BYTES = 64  # by which a report grows when it gets its number and incarnation
REPORT_ACK_BYTES_MAX = 4 * KIB
ENVELOPE_BYTES_MAX = 512 * KIB  # an assignment in base64, with its signature
COORDINATOR_KEY_BYTES_MAX = 4 * KIB
CONTRACTS_MAX = 16
DEVICE_STATE_BYTES_MAX = 7 * MIB // 4  # 64 slots that tell all they may take 1.6; a frame of the sync socket holds 2
TURNED_AWAY_TOLD_MAX = 4  # of one slot, the newest; each may take 4 KiB, and the older ones came as reports
SNAPSHOTS_TOLD_MAX = 16  # of one slot; retention keeps SNAPSHOTS_PER_MODEL_MAX and those that are in use
PART_BYTES_MAX = 256 * KIB  # of bulk data: larger ones slow a broker down with many devices
HTTP_PART_BYTES_MAX = MIB  # over HTTP: a whole chunk at once, no broker copies it
GET_BYTES_MAX = 1 * KIB
GET_EXPIRY_S = 30  # an answer that comes later was asked for again already
MQTT_PACKET_BYTES_MAX = DEVICE_STATE_BYTES_MAX + 64 * KIB  # what either side takes from the broker at once

# ---- bundles (a file made by the publisher, read by whoever offers it)
BUNDLE_ENTRIES_MAX = 20_000  # metadata, one manifest, its chunks (16 GiB / 1 MiB = 16,384)
BUNDLE_NAME_BYTES_MAX = 128  # the longest name, of a chunk, has 71
BUNDLE_DIRECTORY_BYTES_MAX = 8 * MIB  # 20,000 entries of 46 + 71 bytes and a ZIP64 field, with room
BUNDLE_BYTES_MAX = SNAPSHOT_BYTES_MAX + 128 * MIB  # beside the chunks: metadata, manifest, directory
BUNDLE_FORMAT_BYTES_MAX = 64  # the entry that says which format this is

# ---- lifecycle
SHARE_STEPS_MAX = 8  # each is a minute or so of an update
STAGE_OVERTIME_S = 3600.0  # a trial that has not seen enough by then, beyond its time, is declined
CLIMBS_MAX = 6  # of one generation: how often a device goes back by itself to what it had to leave
CLIMB_PAUSE_FACTOR = 4  # 30 s, 2 min, 8 min, half an hour, 2 h, 8 h
RETRY_MAX_S = 600.0  # nothing serves: the ladder is tried again this often at least
UNCLEAN_STARTS_MAX = 3  # of a confirmed snapshot, without STEADY_S between: a device that goes down again and again
STEADY_S = 600.0  # serving for so long without a restart clears a confirmed snapshot's unclean starts
REPLAY_PAUSE_S = 1.0  # golden vectors are replayed through a busy worker this often at most
QUARANTINE_RECORDS_MAX = 32  # per model; the oldest go first
REFUSALS_TOLD_MAX = 32  # of offers for one model, until one is taken: each is a report and a line in the journal
REFUSED_OFFERS_MAX = 8  # per model, for the operator's eyes only: a flood must not push out quarantine records
JOURNAL_ENTRIES_MAX = 10_000  # about two years of a weekly update with its damage and repairs
OUTBOX_REPORTS_MAX = 10_000
CRASH_WINDOW_S = 60.0  # worker deaths within this time are one story
CRASH_EVIDENCE_MIN = 3  # crashes (by at least two different requests) that make a crash loop
CRASHES_REMEMBERED_MAX = 32  # per model; far more than the evidence needs
SNAPSHOTS_PER_MODEL_MAX = 8  # retention keeps active, last good, candidate, factory, then the newest

# ---- control sockets of the runtime
ADMIN_CONNECTIONS_MAX = 16  # one more is told so, and may try again
ADMIN_FIRST_S = 2.0  # a connection that has asked nothing for so long is cut off: idle ones lock no operator out
OFFER_IDLE_S = 30.0  # an offering client that says nothing for so long is cut off
ADMIN_REQUEST_S = 60.0

SYNC_CONNECTIONS_MAX = 8  # of the sync process, which needs a few: a long poll, offers, the rest
SYNC_METADATA_BYTES_MAX = 8 * MIB  # all signed files of one offer; a few hundred KiB for a thousand snapshots
SYNC_IDLE_S = 120.0  # a connection of the sync process that asks nothing for so long is cut off
SYNC_END_S = 3.0  # it has nothing to lose, and is killed after this time

# ---- the runtime's executor
EVENTS_WAITING_MAX = 1_000  # events waiting for a decision; each takes one short transaction
FACTS_WAITING_MAX = 1_000  # of children, before them; they are few: more mean that nothing is decided any more
UNTOLD_MAX = 100  # facts kept in memory for one slot while the disk cannot be written
PERSIST_S = 1.0  # a disk that needs longer hangs: safety goes on in memory, and is written when the disk is back
PERSIST_PATIENT_S = 10.0  # an offer waits so long for a slow disk, while nothing about safety waits behind it
WAKE_PAUSE_MAX_S = 5.0  # the executor looks at its deadlines at least this often

# ---- publishing
MODEL_DESCRIPTION_BYTES_MAX = MIB  # snapshot.json of a model folder
PACK_PROOF_S = 600.0  # loading and all golden vectors of one engine; minutes mean a hang
PACK_PROOF_OUTPUT_BYTES_MAX = 64 * KIB  # of what the proving process wrote, the end is read

# ---- worker processes, as the runtime keeps them
LOAD_KILLED_MAX = 3  # a load that is killed from outside (OOM killer, an operator) is tried so often
EXIT_STATUS_S = 1.0  # the fork server tells how a worker ended within this time, or nobody knows
BRING_UP_PAUSE_S = 2.0  # a wish that failed and still stands is tried again after this pause
WORKER_END_S = 5.0  # a worker that was asked to end finishes its request within this time, or is killed
TROUBLED_SNAPSHOTS_MAX = 64  # whose workers died lately, and are started again after a pause
WORKERS_REMEMBERED_MAX = 64  # ended workers whose exit status or last request may still be told

# ---- the front, as the runtime sees it
LISTEN_BACKLOG = 1024  # connections that wait in the kernel while a front is restarted
FRONT_START_S = 30.0
FRONT_REQUEST_S = 10.0
FRONT_END_S = 10.0
FRONT_PAUSE_S = 0.5  # before a front that did not follow is told again
FRONT_PING_S = 2.0  # the front is asked so often whether it still runs, and answers within this time
FRONT_PINGS_MISSED_MAX = 5  # in a row, 10 s: the largest body in JSON blocks a front for 1.5 s here, more on a Jetson

# ---- the store thread
STORE_END_S = 2.0  # a stop waits so long for what is being written; a disk that hangs does not hold it up
STORE_WORK_WAITING_MAX = 1_000  # pieces of work; whoever offers chunks waits for each, so this is never reached by one
GARBAGE_CHUNKS_AT_ONCE = 8  # one short transaction of a collection
OFFER_KEPT_S = 600.0  # chunks of an unfinished offer are kept so long for whoever offers it again

# ---- the operator's commands and a boot
HISTORY_LINES_MAX = 1_000
LONG_POLL_S = 10.0
ADOPTION_S = 5.0  # a child of an earlier runtime answers within this time, or is ended
RETENTION_PAUSE_S = 30.0
STOP_S = 15.0  # a graceful stop takes at most this long

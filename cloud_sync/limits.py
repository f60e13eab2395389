"""Bounds of the coordinator, with the unit in the name and the reason beside it; what both sides know is in
`edge_agent.contract.limits`. No code lives here.
"""

KIB = 1024
MIB = 1024 * KIB

# ---- the fleet
DEVICES_MAX = 20_000  # one process plans over all of them; more are turned away with a log line
ROLLOUTS_MAX = 2_000  # superseded ones go first; 20 years of two a week
ROLLOUT_DEVICES_MAX = 5_000  # named one by one; "all devices" has no list
NUMBER_LEAP_MAX = 2**32  # a device that tells a revision or generation so far above ours lies: nobody gave so many
OFFLINE_AFTER_S = 150.0  # two state documents (one a minute) and a bit: silence beyond means offline
LIVENESS_LOOK_S = 5.0  # silence is noticed so much later at most
PLAN_PAUSE_S = 0.2  # what happens within this time is planned for at once
PLAN_PAUSE_RATIO = 4.0  # of the time that planning took: a large fleet leaves four fifths for everything else
PLAN_ROUNDS_MAX = 16  # in a row: devices that say hello all the time keep nothing else from being done

# ---- the database
WRITES_WAITING_MAX = 2_000  # a disk that hangs: devices are not acknowledged, and send again
WRITES_PER_COMMIT_MAX = 200  # one fsync for all that came meanwhile, and no commit of many seconds
WRITER_END_S = 10.0  # a stop waits so long for what is being written
INCARNATIONS_PER_DEVICE_MAX = 8  # a device begins a new one when its outbox was lost; older ones never come again
REPORTS_PER_DEVICE_MAX = 1_000  # the newest; a device has some ten a week
REPORTS_SHOWN_MAX = 50
ENTITLEMENTS_PER_DEVICE_MAX = 1_000  # snapshots that a device may fetch; the newest
SERVED_PARTS_MAX = 200_000  # rows of the log; 50 GB at 256 KiB a part
SERVED_PARTS_WAITING_MAX = 10_000  # parts served since the last write; more are counted, not logged
STATES_WRITE_S = 0.5  # devices' states and served parts are written together so often
BUSY_TIMEOUT_S = 10.0  # a backup may hold the database for a moment

# ---- the line
RECONNECT_BASE_S = 0.5
RECONNECT_MAX_S = 30.0
CONNECT_TIMEOUT_S = 10.0
STEADY_S = 30.0  # a connection that held so long was a good one: the next pause is short again
KEEPALIVE_S = 30
SPREAD_S = 5.0  # after a coordinator has connected, its devices say hello within this time, not at once
SPREAD_PER_DEVICE_S = 0.005  # 200 hellos a second
SPREAD_MAX_S = 60.0
MESSAGES_WAITING_MAX = 5_000  # incoming; of a broker that is faster than we are the rest is lost: all is repeated
SAID_BURST_BYTES = 4 * MIB  # of one device at once: its two largest documents, or 5,000 reports after a long time
SAID_BYTES_PER_S = 256 * KIB  # after that: one that lies all day takes a tenth of the time at most
SAID_BYTES_MIN = 4 * KIB  # what a short message counts: each hello is a commit and two answers; 64 a second go on
ANSWERS_WAITING_MAX = 5_000  # acks and assignments under way; beyond, a device's next hello asks again
PUBLISHES_AT_ONCE = 64  # of all assignments, after connecting
GETS_AT_ONCE = 6  # 1.5 MiB of parts in our socket at most: an assignment never waits behind more
GETS_WAITING_MAX = 2_000  # beyond, a request is dropped: the device asks again
GETS_WAITING_PER_DEVICE_MAX = 64
CHUNKS_KEPT_BYTES_MAX = 32 * MIB  # verified chunks in memory: three for each of ten devices that fetch at once
MANIFESTS_KEPT_MAX = 64  # sets of chunk names, 1.5 MB for the largest model

# ---- the HTTP API
JSON_BODY_BYTES_MAX = 2 * MIB  # 16,384 hashes of 64 digits, and a bit
PARTS_AT_ONCE = 32  # over HTTP: 32 MiB in our sockets at most; beyond, 503: the device asks over MQTT
PARTS_PER_DEVICE_AT_ONCE = 4  # a device asks for three at once, and one more may be ending
PART_SEND_S = 300.0  # 1 MiB at 28 kbit/s; a device that takes longer is hung up on
STOP_REQUESTS_S = 5.0  # a stop waits so long for requests under way
CLOSE_MATCHES = 3

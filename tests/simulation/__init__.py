"""Fleets in virtual time: the real core, executor and plan on simulated disks, engines and links; one seed decides all.

Survived, by promise, in any mixture: lost, late, doubled and reordered messages, partitions; a disk that is full,
read-only, hangs and comes back late, or loses the write under way at a power cut; chunks that rot, evidence too;
engines that refuse, crash, time out, lack memory, disagree with their proof then or later, answer wrongly, slowly or
not at all; workers and the runtime killed, power cuts, clean restarts; clocks that jump; operators who roll out, go
back, pin, import; conditions in which no update is taken; retention; a publisher who states a minimum.

Real here: `edge_agent.core`, `Executor`, the state document, `removable` of retention, `cloud_sync.core.plan`. Stood
in for: the store (a state, an outbox with numbers, chunks that are whole or not), pool, front and desks (the rules of
`Pool`, `AssignmentDesk` and `OfferDesk` in few lines, with the core's own back-off and blame), the line (messages that
are repeated), the coordinator's database (never lost, so that `restored` has nothing to do).

Not simulated: several models on a device, signatures, bytes, SQLite (tests/store), real processes (tests/faults).
"""

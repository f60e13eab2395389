"""What the device keeps: snapshots and their bytes (models.db), lifecycle, journal and outbox (agent.db).

Synchronous, for the runtime's one store thread. Whether bytes are to be believed is `trust`'s word, not the store's.
"""

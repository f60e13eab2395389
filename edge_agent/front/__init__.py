"""The unprivileged HTTP process: parses applications' requests, queues them, hands tensors to workers.

It knows only the routes that the runtime tells it: no database, no signature, no decision about snapshots.
"""

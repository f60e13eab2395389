"""The trust room: signed bytes in, verified object out.

Files, network, clock and database belong to the callers. Read in this order: verified.py (what verification
gives), signed_file.py (one signed file), chain.py (the walk),
refresh.py (as much of it as came), coordinator.py (whom the publisher names).
"""

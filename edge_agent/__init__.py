"""Holdfast on the device: serves proven models without the network.

Rooms: see README; nothing is imported here (Python 3.7 workers read this file).
"""

AGENT_VERSION = "0.1.0"

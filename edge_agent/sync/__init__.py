"""The sync process: speaks MQTT with the coordinator, offers what it fetched to the runtime. It holds nothing that may
not be lost, and nothing is believed because it says so: verifying and keeping are the runtime's.
"""

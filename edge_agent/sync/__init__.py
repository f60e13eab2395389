"""The sync process: speaks MQTT with the coordinator, offers what it fetched to the runtime. It holds nothing that may
not be lost, and nothing is believed because it says so: verifying and keeping are the runtime's.

Read line.py (the connection), link.py (the runtime's socket), talk.py (what is said), then requests.py and
http_source.py (how parts come; ways.py chooses), fetching.py, metadata.py and offers.py (what is brought).
"""

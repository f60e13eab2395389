"""The coordinator's HTTP API, from outside: what operators' commands ask. It is served elsewhere.

Blocking; nothing is decided or stored here.
"""

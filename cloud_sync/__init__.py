"""Holdfast in the cloud: publishing (`publish`), the coordinator (`service` and what it is made of) and the operator's
commands (`operator_cli`, which ask it through `client`).

Of the device's code only `edge_agent.contract` may be imported here; workers run as subprocesses. Which room knows
which is said in tests/tidy/directions.py.
"""

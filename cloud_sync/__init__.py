"""Holdfast in the cloud: publishing (`publish`) and the operator's commands (`operator_cli`).

Of the device's code only `edge_agent.contract` may be imported here; workers run as subprocesses.
"""

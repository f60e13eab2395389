"""Inference in processes of their own: Python >= 3.7 with numpy and an engine, nothing of the agent.

Which snapshot to load, and when to end a worker, is decided by the runtime.
"""

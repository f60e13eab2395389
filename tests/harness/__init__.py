"""Real agents, a recording client and damage, for tests, demonstration and benchmarks.

Nothing of the product is imitated here.
"""

"""Benchmarks: what Holdfast costs against the bare engine and a bare HTTP server, as ratios within one run.

No limit is asserted here: numbers are for people. `python -m tests.bench`; what they mean is in docs/bench.md.
"""

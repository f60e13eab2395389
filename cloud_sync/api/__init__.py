"""The HTTP API: operators' requests, publishers' uploads, parts for devices, health and metrics. What they mean is
`coordinator`'s and `repository`'s.
"""

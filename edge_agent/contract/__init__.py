"""The language that device and cloud both speak: types, reasons, limits and errors.

No decisions, no storage and no signatures live here: those are `core`, `store` and `trust`.
"""

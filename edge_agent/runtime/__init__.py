"""The runtime process: supervisor, executor and the only opener of the databases.

What a device should do is decided in `core`; bytes are kept by `store` and believed by `trust`.
"""

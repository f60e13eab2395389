"""The operator's command `fleet`: options in, tables or JSON out.

What is done is done elsewhere: on this machine in `publish`, at the coordinator through `client`.
"""

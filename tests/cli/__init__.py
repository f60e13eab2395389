"""The commands `edge-agent` and `fleet` as scripts and operators meet them from outside. What they do is tested in
their rooms.
"""

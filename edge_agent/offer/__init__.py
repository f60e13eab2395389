"""The offer room: reads from a file what is offered to a device.

Nothing is verified here: the runtime does that.
"""

"""Pure decisions: what a device does next, given its state, a fact and the time.

No I/O, clock or chance here: the runtime's executor feeds facts in, persists the outcome and acts on it.
"""

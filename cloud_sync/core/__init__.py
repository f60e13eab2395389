"""Pure decisions of the coordinator: what should run where, from what is wanted and what devices tell.

No I/O, no clock, no chance; rows are in `store`, talking to devices in `mqtt`. Read fleet.py, then plan.py.
"""

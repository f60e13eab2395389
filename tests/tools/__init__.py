"""Tools that write committed documents: the lifecycle's tables and the picture of a demonstration.

What they say is the product's.
"""

"""The line to the broker: connecting, receiving, publishing, answering requests for parts.

What messages mean is `coordinator`'s matter. Read line.py, then parts.py.
"""

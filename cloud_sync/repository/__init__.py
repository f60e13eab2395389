"""The coordinator's copy of the publisher's repository: what it holds, taking uploads in, handing parts out.

How metadata is verified is `publish.signing`'s matter; who may have which part is decided in `coordinator`.
"""

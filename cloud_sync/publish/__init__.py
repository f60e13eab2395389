"""The publisher's room: keys, the TUF repository in a folder, packing of model folders, bundles, uploads.

Verifying on a device is `edge_agent.trust`'s matter; printing and options are `operator_cli`'s.
Read in this order: keys.py, repository.py, signing.py, model_folder.py, proving.py, pack.py, bundle.py,
coordinator.py, upload.py.
"""

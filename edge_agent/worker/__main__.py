"""Start of the fork server and of a one-shot proof, by path, under any Python >= 3.7; nothing is decided here.

Run as a plain file, the folder above is made the package `edge_agent` without its site-packages: the engine's
interpreter never sees the agent's libraries.
"""

from __future__ import annotations

import os
import sys
import types

# One thread in the fork server, whatever the environment says: numeric libraries read these when they are imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("GLOG_minloglevel", "2")

if "edge_agent" not in sys.modules and not __package__:
    _package = types.ModuleType("edge_agent")
    _package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    sys.modules["edge_agent"] = _package
    sys.path = [
        entry for entry in sys.path if os.path.abspath(entry or ".") != os.path.dirname(os.path.abspath(__file__))
    ]


def main(arguments: "list[str]") -> int:
    """Sub-commands: zygote, prove."""
    import argparse

    parser = argparse.ArgumentParser(prog="holdfast-worker")
    commands = parser.add_subparsers(dest="command", required=True)
    zygote = commands.add_parser("zygote", help="fork server for one engine")
    zygote.add_argument("--engine", required=True)
    zygote.add_argument("--socket", required=True)
    zygote.add_argument("--orphan-timeout-s", type=float, default=60.0)
    prove = commands.add_parser("prove", help="run golden vectors once")
    prove.add_argument("--descriptor", required=True)
    chosen = parser.parse_args(arguments)
    if chosen.command == "prove":
        from edge_agent.worker.prove import prove as run_proof

        return run_proof(chosen.descriptor)
    from edge_agent.worker.zygote import ZygoteServer

    ZygoteServer(chosen.socket, chosen.orphan_timeout_s, chosen.engine).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

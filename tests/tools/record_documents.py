"""`python -m tests.tools.record_documents` writes what is missing in tests/contract/recorded; it never changes a file
that is there. What has to be read from them is the test's.

Run it once for a new kind of document. A recorded file stands for devices and coordinators that speak like this.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edge_agent.contract import presence
from edge_agent.contract.canonical import encode, sha256_hex
from edge_agent.contract.envelope import Envelope, SignedKind
from edge_agent.contract.evidence import encode_evidence
from tests import line_samples as sample
from tests.harness.agent import ROOT
from tests.samples import a_manifest

RECORDED = ROOT / "tests" / "contract" / "recorded" / str(presence.CONTRACT_VERSIONS[0])
SUMS = "SHA256SUMS"  # `sha256sum -c` reads it


def _enveloped(kind: SignedKind, payload_name: str, document: Any) -> Envelope:
    """Around the bytes that were recorded, if they were: later versions may write the same document otherwise."""
    payload = RECORDED / payload_name
    return sample.signed(kind, payload.read_bytes() if payload.exists() else document)


# File name -> what it says. A channel's message is in the file with the channel's name.
DOCUMENTS: dict[str, Any] = {
    "hello.json": sample.HELLO,
    "presence.json": sample.PRESENCE,
    "state.json": sample.DEVICE_STATE,
    "reports.json": sample.REPORT_BATCH,
    "get.json": sample.GET,
    "assignment.json": _enveloped(SignedKind.ASSIGNMENT, "assignment-payload.json", sample.ASSIGNMENT),
    "assignment-payload.json": sample.ASSIGNMENT,
    "ack.json": sample.ACK_ENVELOPE,
    "ack-payload.json": sample.REPORT_ACK,
    "coordinator.json": sample.COORDINATOR_HERE,
    "coordinator-key.json": sample.COORDINATOR_KEY,
    "report.json": sample.REPORT,
    "manifest.json": a_manifest(),
    "metadata-files.bin": sample.METADATA_FILES,
    "evidence.bin": sample.EVIDENCE,
}


def encoded(name: str) -> bytes:
    """The bytes that this version would write."""
    return encode_evidence(DOCUMENTS[name]) if name.endswith(".bin") else encode(DOCUMENTS[name])


def main(folder: Path = RECORDED) -> int:
    """Write the files that are missing, and their lines in SHA256SUMS."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in DOCUMENTS:
        if (folder / name).exists():
            continue
        raw = encoded(name)
        (folder / name).write_bytes(raw)
        with (folder / SUMS).open("a", encoding="ascii") as sums:
            sums.write(f"{sha256_hex(raw)}  {name}\n")
        print(f"recorded {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The bounds fit together: what one part may write, the next part may read."""

from __future__ import annotations

import re
from pathlib import Path

from edge_agent.contract import limits

NUMBERS = {name: value for name, value in vars(limits).items() if name.isupper()}


def test_every_bound_is_a_positive_number() -> None:
    assert NUMBERS
    assert all(isinstance(value, int | float) and value > 0 for value in NUMBERS.values())


def test_each_bound_is_stated_once() -> None:
    source = Path(limits.__file__).read_text()
    names = re.findall(r"^([A-Z_0-9]+) = ", source, flags=re.MULTILINE)
    assert len(names) == len(set(names))


def test_the_largest_snapshot_fits_the_manifest_and_the_bundle() -> None:
    chunks = limits.SNAPSHOT_BYTES_MAX // limits.CHUNK_BYTES + limits.SNAPSHOT_FILES_MAX
    assert chunks * len('"' + "0" * 64 + '",') < limits.MANIFEST_BYTES_MAX
    assert chunks + limits.ROOT_CHAIN_MAX + 5 <= limits.BUNDLE_ENTRIES_MAX
    directory_entry = 46 + limits.BUNDLE_NAME_BYTES_MAX + 28
    assert limits.BUNDLE_ENTRIES_MAX * directory_entry <= limits.BUNDLE_DIRECTORY_BYTES_MAX
    metadata = (limits.ROOT_CHAIN_MAX + 3) * limits.METADATA_BYTES_MAX + limits.MANIFEST_BYTES_MAX
    local_headers = limits.BUNDLE_ENTRIES_MAX * (30 + limits.BUNDLE_NAME_BYTES_MAX)
    other = metadata + local_headers + limits.BUNDLE_DIRECTORY_BYTES_MAX
    assert limits.SNAPSHOT_BYTES_MAX + other <= limits.BUNDLE_BYTES_MAX

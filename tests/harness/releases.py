"""Published releases, made once per test run: bundles, digests, and what each answers. Agents are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cloud_sync.publish.pack import published_snapshots
from cloud_sync.publish.signing import read_published
from edge_agent.contract.manifest import encode_manifest
from tests import models_cache
from tests.publishing import Publisher, manifest_of
from tests.tiny_model import write_tiny_model

INPUTS = np.random.default_rng(7).normal(size=(32, 4)).astype("<f4")


@dataclass
class Release:
    """One published snapshot."""

    version: str
    folder: Path
    bundle: Path
    digest: str
    answers: np.ndarray


class Releases:
    """Publishes tiny models for the numpy engine on demand, in `folder`.

    inputs: what a client sends, a row each; every release's answers are to these.
    """

    engine = "numpy"
    model = "tiny"
    input_name = "x"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = INPUTS
        self.publisher = Publisher(folder / "publisher")
        self.all: dict[str, Release] = {}

    @property
    def root_file(self) -> Path:
        """What devices pin."""
        return self.publisher.root_file

    def references(self) -> dict[str, np.ndarray]:
        """digest -> answers to `inputs`, shape (rows, 1, outputs)."""
        return {release.digest: release.answers for release in self.all.values()}

    def publish(self, version: str, *, proven: bool = True, **model: Any) -> Release:
        """Write, publish and bundle; proven=False signs without running it, as a careless publisher would."""
        release = self._newest_release() + 1  # a publisher's releases grow; tests publish more than these
        folder = write_tiny_model(self.folder / version, version=version, release=release, seed=release, **model)
        if proven:
            self.publisher.pack(folder)
        else:
            self.publisher.publish_unproven(folder)
        return self._bundled(version, folder, answers_of(folder))

    def _newest_release(self) -> int:
        if not self.publisher.repository.root_files():
            return 0
        published = read_published(self.publisher.repository)
        snapshots = published_snapshots(self.publisher.repository, published)
        return max((one.manifest.release for one in snapshots if one.manifest.name == self.model), default=0)

    def _bundled(self, version: str, folder: Path, answers: np.ndarray) -> Release:
        bundle = self.publisher.bundle(f"{self.model}@{version}", self.folder / f"{version}.bundle")
        _, digest = encode_manifest(manifest_of(bundle))
        self.all[version] = Release(version, folder, bundle, digest, answers)
        return self.all[version]


class DigitsReleases(Releases):
    """Publishes the versions of digits_lenet for the Paddle engine; inputs are held-out pictures."""

    engine = "paddle"
    model = "digits"
    input_name = "image"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.inputs = np.load(models_cache.heldout("digits_lenet").inputs)

    def publish(self, version: str, *, proven: bool = True, **model: Any) -> Release:
        """Publish what the recipe makes of this version (0.9.0, 1.0.0 or 1.1.0)."""
        folder = models_cache.model_folder("digits_lenet", version)
        self.publisher.pack(folder)
        expected = models_cache.heldout("digits_lenet", version).expected[version]
        return self._bundled(version, folder, np.load(expected))


def answers_of(folder: Path) -> np.ndarray:
    """What a tiny model answers to INPUTS, computed here from its weights: shape (rows, 1, 2)."""
    weights = np.fromfile(folder / "model.bin", dtype="<f4")
    hidden = (len(weights) - 2) // 7  # 4 * hidden + hidden + 2 * hidden + 2
    first, rest = weights[: 4 * hidden].reshape(4, hidden), weights[4 * hidden :]
    activated = np.maximum(INPUTS @ first + rest[:hidden], 0)
    return (activated @ rest[hidden : 3 * hidden].reshape(hidden, 2) + rest[3 * hidden :])[:, None, :]

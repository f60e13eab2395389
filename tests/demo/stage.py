"""What the story is played on: models, publisher, the agent, the client, and the list of steps with their outcome."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.harness.agent import PADDLE_PYTHON, ROOT, Agent
from tests.harness.client import RecordingClient
from tests.harness.fleet import Fleet
from tests.harness.proxy import Link
from tests.harness.releases import Releases
from tests.publishing import Publisher

RECIPE = ROOT / "models" / "digits_lenet" / "recipe.py"
VERSIONS = ("0.9.0", "1.0.0", "1.1.0")


class TrainedReleases(Releases):
    """Releases of digits that the recipe trains now; nothing is taken from a cache."""

    engine = "paddle"
    model = "digits"
    input_name = "image"

    def publish_folder(self, version: str, folder: Path, *, proven: bool = True) -> None:
        """Sign a model folder, after a proof or, as a careless publisher would, without."""
        if proven:
            self.publisher.pack(folder)
        else:
            self.publisher.publish_unproven(folder)
        self._bundled(version, folder, np.empty(0))


@dataclass
class Step:
    """One promise of the story."""

    title: str
    held: bool
    seen: str
    took_s: float


@dataclass
class Stage:
    """Everything that steps share."""

    folder: Path
    console: Console
    steps: list[Step] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    releases: TrainedReleases = field(init=False)
    fleet: Fleet = field(init=False)
    link: Link = field(init=False)
    clients: dict[str, RecordingClient] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.releases = TrainedReleases(self.folder / "releases")

    @property
    def publisher(self) -> Publisher:
        """Who signs."""
        return self.releases.publisher

    @property
    def agent(self) -> Agent:
        """The device that is alone in the first half."""
        return self.fleet.agents[0]

    @property
    def client(self) -> RecordingClient:
        """Its client."""
        return self.clients["device-1"]

    def begin_to_ask(self, agent: Agent, pause_s: float) -> RecordingClient:
        """A client that asks this device from now on and compares every answer."""
        inputs, _, references = self.held_out()
        client = RecordingClient(agent.port(), "digits", "image", inputs, references, pause_s=pause_s)
        self.clients[agent.folder.name] = client
        client.__enter__()
        return client

    def end(self) -> None:
        """End everything that was started, whatever else fails."""
        with contextlib.ExitStack() as stack:
            if hasattr(self, "link"):
                stack.callback(self.link.__exit__, None, None, None)
            if hasattr(self, "fleet"):
                stack.callback(self.fleet.stop)
            for client in self.clients.values():
                stack.callback(client.stop)

    def model_folder(self, version: str) -> Path:
        """Where the recipe wrote this version."""
        return self.folder / f"digits-{version}"

    def bundle_path(self, version: str) -> Path:
        """Where this version's bundle is."""
        return self.releases.all[version].bundle

    def label(self, digest: str) -> str:
        """The version of a digest."""
        return next((version for version, known in self.digests.items() if known == digest), digest[:12])

    def held_out(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Pictures, labels, and per digest the reference outputs."""
        folder = self.folder / "heldout"
        references = {self.digests[v]: np.load(folder / f"expected-{v}.npy") for v in VERSIONS}
        return np.load(folder / "inputs.npy"), np.load(folder / "labels.npy"), references

    def train_and_publish(self, version: str) -> str:
        """Recipe, proof, signature, bundle; the accuracy line of the recipe."""
        command = [PADDLE_PYTHON, str(RECIPE), "--version", version, "--out", str(self.model_folder(version)),
                   "--heldout", str(self.folder / "heldout")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise AssertionError(f"the recipe failed: {done.stderr[-1500:]}")
        self.releases.publish_folder(version, self.model_folder(version))
        self.digests[version] = self.releases.all[version].digest
        return done.stdout.strip().splitlines()[-1]

    def mark(self, text: str) -> None:
        """Something that belongs on the timeline."""
        at_s = self.client.now_s() if self.clients else 0.0
        self.marks.append((at_s, text))

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Play one step; what is appended to the list is what was seen.

        A failed assertion is told, and the story goes on.
        """
        seen: list[str] = []
        started = time.monotonic()
        self.console.print(f"[bold]{title}[/]")
        columns = (TextColumn("  {task.description}"), BarColumn(30), TimeElapsedColumn())
        held = False
        try:
            with Progress(*columns, console=self.console, transient=True) as progress:
                progress.add_task("under way", total=None)
                yield seen
            held = True
        except (AssertionError, LookupError, OSError) as error:
            seen.append(f"{type(error).__name__}: {error}"[:600])
        took_s = time.monotonic() - started
        self.steps.append(Step(title, held, "; ".join(seen), took_s))
        mark = "[green]held[/]" if held else "[red]FAILED[/]"
        for line in seen:
            self.console.print(f"  {line}", highlight=False)
        self.console.print(f"  {mark} in {took_s:.1f} s\n", highlight=False)

"""The project's text files as the tidy rules see them. What is wrong with them is said in `rules` and `directions`."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("edge_agent", "cloud_sync", "models", "tests", "packaging", "requirements", "docs", ".ci")
SUFFIXES = {".py", ".md", ".toml", ".sh", ".txt", ".in", ".cfg", ".conf", ".yml", ".yaml", ".service", ".html", ""}
SKIPPED = {"__pycache__", ".hypothesis"}


@dataclass(frozen=True)
class Source:
    """One file. path: relative to the project, with slashes; text: its content."""

    path: str
    text: str

    @property
    def is_python(self) -> bool:
        """Whether the Python rules apply."""
        return self.path.endswith(".py")

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed module."""
        return ast.parse(self.text, self.path)

    @cached_property
    def lines(self) -> list[str]:
        """Its lines without their ends."""
        return self.text.splitlines()

    @property
    def folder(self) -> str:
        """The top folder: edge_agent, tests, ..."""
        return PurePosixPath(self.path).parts[0]

    def in_folder(self, folder: str) -> bool:
        """Whether it lies below this folder."""
        return PurePosixPath(self.path).is_relative_to(folder)

    @property
    def module(self) -> str:
        """Its dotted name: edge_agent.store.sqlite."""
        return ".".join(PurePosixPath(self.path).with_suffix("").parts).removesuffix(".__init__")


@dataclass(frozen=True)
class Finding:
    """One thing to mend. said: what is wrong and what to do instead."""

    path: str
    line: int
    said: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.said}"


def all_sources() -> list[Source]:
    """Every text file of the project, sorted by path."""
    made = (".lock", ".html", ".git")  # .git is a file where git keeps the project elsewhere
    found = [path for path in ROOT.iterdir() if path.is_file() and not path.name.endswith(made)]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in SUFFIXES]
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(found)
        if not SKIPPED.intersection(path.parts)
    ]

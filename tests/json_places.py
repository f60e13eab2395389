"""Places in a JSON document, and the document with another value at one of them. What has to follow is the tests'."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Place = tuple[Any, ...]


def places(node: Any, path: Place = ()) -> Iterator[Place]:
    """Every place, inner nodes too."""
    if path:
        yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def changed(document: Any, path: Place, value: Any) -> Any:
    """A copy with this value at this place."""
    whole, node = _down_to(document, path)
    node[path[-1]] = value
    return whole


def without(document: Any, path: Place) -> Any:
    """A copy without this place."""
    whole, node = _down_to(document, path)
    del node[path[-1]]
    return whole


def _down_to(document: Any, path: Place) -> tuple[Any, Any]:
    """A copy, and the node in it that has the place."""
    whole = node = copy.deepcopy(document)
    for key in path[:-1]:
        node = node[key]
    return whole, node

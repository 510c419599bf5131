"""Exact counters of the requests to the local Google Cloud, for tests and rehearsals."""

import copy
import threading
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np


class Counters:
    """Nested counters. Thread-safe.

    A path of strings names a counter: ``add("vertex", "by_status", "200")`` shows as
    ``{"vertex": {"by_status": {"200": 1}}}``.

    Attributes:
        resets: Number of resets.
    """

    def __init__(self) -> None:
        self.resets = 0
        self._lock = threading.Lock()
        self._tree: dict[str, Any] = {}
        self._hashes: dict[tuple[str, ...], array[int]] = {}

    def add(self, *path: str, amount: float = 1) -> None:
        """Add ``amount`` to the counter at ``path``, which starts at 0."""
        with self._lock:
            branch = self._branch(path)
            branch[path[-1]] = branch.get(path[-1], 0) + amount

    def add_names(self, *path: str, names: Iterable[str], limit: int) -> None:
        """Increment one counter per name below ``path``; ignore new names once there are ``limit`` of them."""
        with self._lock:
            branch = self._branch((*path, ""))
            for name in names:
                if name in branch or len(branch) < limit:
                    branch[name] = branch.get(name, 0) + 1

    def count_distinct(self, *path: str, names: Iterable[str]) -> None:
        """Count distinct and repeated names, in 8 bytes per name.

        `snapshot` reports them at ``path`` as ``{"distinct": 3, "repeated": 1}``; `get` does not.
        """
        with self._lock:
            self._hashes.setdefault(path, array("q")).extend(map(hash, names))

    def set_max(self, *path: str, value: float) -> None:
        """Raise the value at ``path`` to ``value`` if it is lower."""
        with self._lock:
            branch = self._branch(path)
            branch[path[-1]] = max(branch.get(path[-1], value), value)

    def get(self, *path: str) -> Any:
        """Return the number (or, for a branch, a copy of the tree) at ``path``; 0 if there is none."""
        with self._lock:
            node: Any = self._tree
            for key in path:
                if not isinstance(node, dict) or key not in node:
                    return 0
                node = node[key]
            return copy.deepcopy(node)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all counters."""
        with self._lock:
            tree = copy.deepcopy(self._tree)
            distinct_names = {path: np.array(hashes) for path, hashes in self._hashes.items()}
        for path, hashes in distinct_names.items():
            distinct = len(np.unique(hashes))
            branch = tree
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = {"distinct": distinct, "repeated": len(hashes) - distinct}
        return tree

    def reset(self) -> None:
        """Reset all counters."""
        with self._lock:
            self.resets += 1
            self._tree.clear()
            self._hashes.clear()

    def _branch(self, path: tuple[str, ...]) -> dict[str, Any]:
        branch = self._tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        return branch

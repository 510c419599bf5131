"""Exact counts of what the local Google Cloud was asked, for tests and rehearsals."""

import copy
import threading
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np


class Counters:
    """Nested counters that many threads may raise at once.

    A path of strings names a counter: ``add("vertex", "by_status", "200")`` shows as
    ``{"vertex": {"by_status": {"200": 1}}}``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tree: dict[str, Any] = {}
        self._seen: dict[tuple[str, ...], array[int]] = {}

    def add(self, *path: str, amount: float = 1) -> None:
        """Raise the counter at ``path`` by ``amount`` (default 1; starts at 0)."""
        with self._lock:
            branch = self._branch(path)
            branch[path[-1]] = branch.get(path[-1], 0) + amount

    def add_names(self, *path: str, names: Iterable[str], most: int) -> None:
        """Raise one counter per name below ``path``; when there are ``most`` of them, new names are left out."""
        with self._lock:
            branch = self._branch((*path, ""))
            for name in names:
                if name in branch or len(branch) < most:
                    branch[name] = branch.get(name, 0) + 1

    def see(self, *path: str, names: Iterable[str]) -> None:
        """Count different names and repetitions, in 8 bytes for each.

        `snapshot` shows them at ``path`` as ``{"distinct": 3, "repeated": 1}``; `get` does not.
        """
        with self._lock:
            self._seen.setdefault(path, array("q")).extend(map(hash, names))

    def peak(self, *path: str, value: float) -> None:
        """Keep the greatest ``value`` that was ever given for ``path``."""
        with self._lock:
            branch = self._branch(path)
            branch[path[-1]] = max(branch.get(path[-1], value), value)

    def get(self, *path: str) -> Any:
        """Return the number (or, for a branch, a copy of the tree) at ``path``; 0 when nothing is there."""
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
            seen = {path: np.array(hashes) for path, hashes in self._seen.items()}
        for path, hashes in seen.items():
            distinct = len(np.unique(hashes))
            branch = tree
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = {"distinct": distinct, "repeated": len(hashes) - distinct}
        return tree

    def reset(self) -> None:
        """Forget every count."""
        with self._lock:
            self._tree.clear()
            self._seen.clear()

    def _branch(self, path: tuple[str, ...]) -> dict[str, Any]:
        branch = self._tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        return branch

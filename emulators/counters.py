"""Exact counts of what the local Google Cloud was asked, for tests and rehearsals."""

import copy
import threading
from typing import Any


class Counters:
    """Nested counters that many threads may raise at once.

    A path of strings names a counter: ``add("vertex", "by_status", "200")`` shows as
    ``{"vertex": {"by_status": {"200": 1}}}``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tree: dict[str, Any] = {}

    def add(self, *path: str, amount: float = 1) -> None:
        """Raise the counter at ``path`` by ``amount`` (default 1; starts at 0)."""
        with self._lock:
            branch = self._branch(path)
            branch[path[-1]] = branch.get(path[-1], 0) + amount

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
            return copy.deepcopy(self._tree)

    def reset(self) -> None:
        """Forget every count."""
        with self._lock:
            self._tree.clear()

    def _branch(self, path: tuple[str, ...]) -> dict[str, Any]:
        branch = self._tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        return branch

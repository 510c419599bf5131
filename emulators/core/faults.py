"""The fault book: one settings document that says how the local Google Cloud misbehaves.

Each service reads its own section and applies it; tests and rehearsals write the book through
``/_local/faults``. An empty book means a cloud that always works, at once.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any, Final

from imagebeam.emulators.core.http import ApiError

SECTIONS: Final = ("vertex", "batch", "bigquery", "storage", "token", "analyticshub", "access")

Check = Callable[[dict[str, Any]], None]


class FaultBook:
    """The faults in force; safe to read and write from many threads.

    ``version`` grows with every change, so that a service can cache what it derived from its section.
    A service that knows the keys of its section registers a check: then a misspelt fault is refused
    instead of silently doing nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._book: dict[str, dict[str, Any]] = {}
        self._used: dict[tuple[str, str, int], int] = {}
        self._checks: dict[str, list[Check]] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """How often the book was changed."""
        return self._version

    def register(self, section: str, check: Check) -> None:
        """Let ``check`` look at every new document of a section; it raises ``ValueError`` to refuse."""
        self._checks.setdefault(section, []).append(check)

    def section(self, name: str) -> dict[str, Any]:
        """Return a copy of one service's settings; empty when it is to behave."""
        with self._lock:
            return copy.deepcopy(self._book.get(name, {}))

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the whole book."""
        with self._lock:
            return copy.deepcopy(self._book)

    def update(self, document: dict[str, Any]) -> None:
        """Replace the sections that ``document`` has; the others stay as they are.

        Raises:
            ApiError: 400, for a section or a setting that nobody knows. The book is then unchanged.
        """
        for name, settings in document.items():
            if name not in SECTIONS:
                raise ApiError(400, f"Unknown section {name!r} of the fault book: use {', '.join(SECTIONS)}.")
            if not isinstance(settings, dict):
                raise ApiError(400, f"Section {name!r} of the fault book must be an object.")
            for check in self._checks.get(name, ()):
                try:
                    check(settings)
                except (ValueError, TypeError, KeyError) as problem:
                    raise ApiError(400, f"Section {name!r} of the fault book: {problem}") from problem
        with self._lock:
            self._version += 1
            self._book.update(copy.deepcopy(document))
            self._used = {key: count for key, count in self._used.items() if key[0] not in document}

    def reset(self) -> None:
        """Empty the book."""
        with self._lock:
            self._version += 1
            self._book.clear()
            self._used.clear()

    def take(
        self,
        section: str,
        text: str,
        *,
        key: str = "rules",
        when: Callable[[dict[str, Any]], bool] | None = None,
    ) -> dict[str, Any] | None:
        """Return the first rule that applies to ``text`` and count its use.

        Args:
            section: Section of the book.
            text: What the rule's ``match`` is looked for in (a URI, a row); without ``match`` it always fits.
            key: Name of the list of rules in the section.
            when: Further condition of the caller.

        Returns:
            The rule, or ``None``. A rule with ``times: N`` applies N times since it was set.
        """
        with self._lock:
            for index, rule in enumerate(self._book.get(section, {}).get(key, ())):
                if str(rule.get("match") or "") not in text or (when is not None and not when(rule)):
                    continue
                used = self._used.get((section, key, index), 0)
                if rule.get("times") is not None and used >= int(rule["times"]):
                    continue
                self._used[section, key, index] = used + 1
                return dict(rule)
        return None


def check_keys(settings: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse keys that nobody knows.

    Raises:
        ValueError: Names the key and the known ones.
    """
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown key {name!r} in {where}: use {', '.join(known)}")

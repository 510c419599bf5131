"""The fault configuration: one document that defines which failures the local Google Cloud simulates.

Each service reads and applies its own section. Tests and rehearsals set the document through
``/_local/faults``. With an empty document every call succeeds without delay.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any, Final

from imagebeam.emulators.core.http import ApiError

SECTIONS: Final = ("vertex", "batch", "bigquery", "storage", "token", "analyticshub", "access")

Check = Callable[[dict[str, Any]], None]


class FaultConfig:
    """The current fault configuration. Thread-safe.

    ``version`` increases with every change, so a service can cache what it derives from its section.
    Each service registers a check of its section, so that a misspelled key is rejected instead of ignored.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._config: dict[str, dict[str, Any]] = {}
        self._used: dict[tuple[str, str, int], int] = {}
        self._checks: dict[str, list[Check]] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """Number of changes so far."""
        return self._version

    def register(self, section: str, check: Check) -> None:
        """Register a check that runs on every new version of a section; it raises ``ValueError`` to reject it."""
        self._checks.setdefault(section, []).append(check)

    def section(self, name: str) -> dict[str, Any]:
        """Return a copy of one service's section; empty if it has no faults."""
        with self._lock:
            return copy.deepcopy(self._config.get(name, {}))

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the whole document."""
        with self._lock:
            return copy.deepcopy(self._config)

    def update(self, document: dict[str, Any]) -> None:
        """Replace the sections that ``document`` contains and keep the others.

        Raises:
            ApiError: 400 for an unknown section or setting. Nothing is changed then.
        """
        for name, settings in document.items():
            if name not in SECTIONS:
                raise ApiError(400, f"Unknown section {name!r} of the fault configuration: use {', '.join(SECTIONS)}.")
            if not isinstance(settings, dict):
                raise ApiError(400, f"Section {name!r} of the fault configuration must be an object.")
            for check in self._checks.get(name, ()):
                try:
                    check(settings)
                except (ValueError, TypeError, KeyError) as problem:
                    raise ApiError(400, f"Section {name!r} of the fault configuration: {problem}") from problem
        with self._lock:
            self._version += 1
            self._config.update(copy.deepcopy(document))
            self._used = {key: count for key, count in self._used.items() if key[0] not in document}

    def reset(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._version += 1
            self._config.clear()
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
            section: Name of the section.
            text: Text (a URI, a row) that must contain the rule's ``match``. A rule without ``match`` always applies.
            key: Name of the list of rules in the section.
            when: Additional condition.

        Returns:
            The rule, or None. A rule with ``times: N`` applies N times after it was set.
        """
        with self._lock:
            for index, rule in enumerate(self._config.get(section, {}).get(key, ())):
                if str(rule.get("match") or "") not in text or (when is not None and not when(rule)):
                    continue
                used = self._used.get((section, key, index), 0)
                if rule.get("times") is not None and used >= int(rule["times"]):
                    continue
                self._used[section, key, index] = used + 1
                return dict(rule)
        return None


def check_keys(settings: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    """Reject unknown keys.

    Raises:
        ValueError: A key is unknown. The message lists the known keys.
    """
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown key {name!r} in {where}: use {', '.join(known)}")

"""Simulated failures of the local batch service: section ``batch`` of the fault configuration.

::

    {"synthetic": false,
     "limits": {"lines": 200000, "bytes": 1000000000},
     "calls": [{"method": "create", "match": "run-7*", "times": 1, "do": "http", "code": 503},
               {"do": "lost_answer", "times": 1}],
     "jobs": [{"failed": 0.01, "missing": 0.005, "duplicated": 0.005},
              {"match": "*-003", "end": "EXPIRED"},
              {"match": "*-004", "end": "PARTIALLY_SUCCEEDED", "finished": 0.6}]}

``match`` is a pattern (``*``, ``?``) for the display name; a rule without it applies to every job. ``times`` limits
the number of calls or jobs that a rule applies to, counted from the time at which it was set.

``calls``: the first matching rule is applied. ``method`` is create (default), get, list, cancel or delete; ``do``
is ``http`` (``code``, ``message``) or, for create, ``lost_answer``: the job is created, then the connection breaks.

``jobs``: all rules that match a job at its creation are merged; later rules win. A job that is held by a rule
continues when the rule is removed. `JobFaults` lists the keys of a rule.

``synthetic``: answers are derived from a hash of the URIs and from the schema; images are not read and need not
exist. Such answers have ``modelVersion: imagebeam-emulator-synthetic``.

Random decisions depend on the seed, the display name and the position of the row in the input, never on time.
"""

import fnmatch
import math
import threading
from dataclasses import dataclass, field, fields
from typing import Any, Final

from imagebeam.emulators.core.faults import FaultConfig, check_keys

SECTION: Final = "batch"
#: Limits of the service (Google, "Batch inference").
MAX_LINES: Final = 200_000
MAX_BYTES: Final = 1_000_000_000
#: Maximum number of rows of a job of an embedding model (Google, "Get batch embeddings inferences").
MAX_EMBEDDING_LINES: Final = 1_000_000

METHODS: Final = ("create", "get", "list", "cancel", "delete")
_STUCK: Final = ("PENDING", "RUNNING")
_OUTPUT_INFO: Final = ("running", "end", "never")
_SHARES: Final = ("finished", "failed", "blocked", "missing", "duplicated")
_SECONDS: Final = ("pending_s", "running_s", "cancel_s", "unlisted_s", "age_s")
_FLAGS: Final = (
    "truncated", "shuffled", "echo_key", "echo_camel", "output_forbidden", "incremental_only",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobFaults:
    """The faults of one job.

    Attributes:
        pending_s: Seconds in PENDING.
        running_s: Seconds in RUNNING after the first half of the rows.
        cancel_s: Seconds in CANCELLING.
        unlisted_s: Seconds during which ``list`` does not return the job.
        age_s: Seconds by which the job's timestamps are in the past.
        stuck: State in which the job stays: ``PENDING`` or ``RUNNING`` (after the first half of the rows).
        running_state: State that is reported instead of RUNNING.
        end: Final state without ``JOB_STATE_``; any text is reported unchanged.
        finished: Share of the rows that are processed before the job ends. Default: all for SUCCEEDED, none for
            EXPIRED, else half.
        error: ``error`` of the resource: code, message, details.
        failed: Share of rows that fail with one of ``failed_codes``.
        failed_codes: HTTP codes.
        blocked: Share of rows whose prompt is blocked.
        missing: Share of rows whose output line is not written.
        duplicated: Share of rows whose output line is written twice.
        truncated: Whether the last output line is cut in the middle.
        shuffled: Whether the order of output lines differs from the input.
        echo_key: Whether top-level fields of the input line are copied to the output line.
        echo_camel: Whether the copied request is converted to camelCase.
        output_info: When ``outputInfo`` is set: ``running``, ``end`` or ``never``.
        output_forbidden: Whether the service agent may not write the output, so that the job fails before any row.
        incremental_only: Whether the output consists of ``incremental_predictions`` only, with all finished rows.
    """

    pending_s: float = 0.0
    running_s: float = 0.0
    cancel_s: float = 0.0
    unlisted_s: float = 0.0
    age_s: float = 0.0
    stuck: str | None = None
    running_state: str = "RUNNING"
    end: str = "SUCCEEDED"
    finished: float | None = None
    error: dict[str, Any] | None = None
    failed: float = 0.0
    failed_codes: tuple[int, ...] = (503,)
    blocked: float = 0.0
    missing: float = 0.0
    duplicated: float = 0.0
    truncated: bool = False
    shuffled: bool = True
    echo_key: bool = True
    echo_camel: bool = False
    output_info: str = "running"
    output_forbidden: bool = False
    incremental_only: bool = False

    @property
    def share(self) -> float:
        """Share of the rows that are processed before the job ends, 0 to 1."""
        if self.finished is not None:
            return self.finished
        return {"SUCCEEDED": 1.0, "EXPIRED": 0.0}.get(self.end, 0.5)


@dataclass(frozen=True, slots=True)
class CallFault:
    """The fault of one API call.

    Attributes:
        code: HTTP code; None for a lost response.
        message: Error message; None for the service's default.
    """

    code: int | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum number of lines and bytes of an input file."""

    lines: int = MAX_LINES
    bytes: int = MAX_BYTES


@dataclass(slots=True)
class BatchFaults:
    """Section ``batch`` of the fault configuration. Thread-safe.

    Args:
        config: The fault configuration. Registers a check of the section.
    """

    config: FaultConfig
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _used: dict[tuple[str, int], int] = field(init=False, default_factory=dict)
    _version: int = field(init=False, default=-1)
    _section: dict[str, Any] = field(init=False, default_factory=dict)
    _updated: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self.config.register(SECTION, self._on_update)

    @property
    def synthetic(self) -> bool:
        """Whether answers are derived from a hash instead of pixels."""
        with self._lock:
            return bool(self._current_section().get("synthetic", False))

    def limits(self, lines: int = MAX_LINES) -> Limits:
        """Return the limits of an input file.

        Args:
            lines: Maximum number of rows for the job's model, unless the configuration sets one.
        """
        with self._lock:
            return Limits(**{"lines": lines, **self._current_section().get("limits", {})})

    def call(self, method: str, name: str) -> CallFault | None:
        """Return the fault of an API call, or None, and count its use.

        Args:
            method: One of `METHODS`.
            name: Display name of the job; for a list, the filter.
        """
        with self._lock:
            for number, rule in enumerate(self._current_section().get("calls", ())):
                if rule.get("method", "create") == method and _matches(rule, name) and self._use(rule, "calls", number):
                    code = rule["code"] if rule["do"] == "http" else None
                    return CallFault(code, rule.get("message"))
        return None

    def rules(self, name: str) -> tuple[dict[str, Any], ...]:
        """Return the rules that match a new job, and count their use."""
        with self._lock:
            rules = enumerate(self._current_section().get("jobs", ()))
            return tuple(rule for number, rule in rules if _matches(rule, name) and self._use(rule, "jobs", number))

    def active_faults(self, rules: tuple[dict[str, Any], ...]) -> JobFaults:
        """Return the faults of those of a job's rules that are still configured."""
        with self._lock:
            present = self._current_section().get("jobs", ())
        return job_faults(tuple(rule for rule in rules if rule in present))

    def _use(self, rule: dict[str, Any], kind: str, number: int) -> bool:
        if rule.get("times") is None:
            return True
        used = self._used.get((kind, number), 0)
        if used < rule["times"]:
            self._used[kind, number] = used + 1
            return True
        return False

    def _current_section(self) -> dict[str, Any]:
        if self.config.version != self._version:
            self._version = self.config.version
            section = self.config.section(SECTION)
            if self._updated or section != self._section:
                self._updated, self._section = False, section
                self._used.clear()
        return self._section

    def _on_update(self, section: dict[str, Any]) -> None:
        _check(section)
        self._updated = True


def job_faults(rules: tuple[dict[str, Any], ...]) -> JobFaults:
    """Merge the rules of one job; later rules win."""
    settings: dict[str, Any] = {}
    for rule in rules:
        settings.update({key: value for key, value in rule.items() if key not in ("match", "times")})
    codes = settings.pop("failed_codes", None)
    return JobFaults(**settings) if codes is None else JobFaults(**settings, failed_codes=tuple(codes))


def _matches(rule: dict[str, Any], name: str) -> bool:
    return fnmatch.fnmatchcase(name, rule.get("match") or "*")


# Parsing of the section


def _check(section: dict[str, Any]) -> None:
    check_keys(section, ("synthetic", "limits", "calls", "jobs"), f"section {SECTION}")
    if not isinstance(section.get("synthetic", False), bool):
        raise TypeError("synthetic must be true or false")
    limits = section.get("limits", {})
    check_keys(limits, ("lines", "bytes"), "limits")
    if any(type(value) is not int or value < 1 for value in limits.values()):
        raise ValueError("limits must be integers ≥ 1")
    for kind, check in (("calls", _check_call), ("jobs", _check_job)):
        rules = section.get(kind, [])
        if not isinstance(rules, list):
            raise TypeError(f"{kind} must be a list")
        for number, rule in enumerate(rules):
            where = f"{kind}[{number}]"
            if not isinstance(rule, dict):
                raise TypeError(f"{where} must be an object")
            if not isinstance(rule.get("match", ""), str):
                raise TypeError(f"{where}: match must be a string")
            if "times" in rule and (type(rule["times"]) is not int or rule["times"] < 0):
                raise ValueError(f"{where}: times must be an integer ≥ 0")
            check(rule, where)


def _check_call(rule: dict[str, Any], where: str) -> None:
    check_keys(rule, ("method", "match", "times", "do", "code", "message"), where)
    if rule.get("method", "create") not in METHODS:
        raise ValueError(f"{where}: method must be one of {', '.join(METHODS)}")
    lost = rule.get("do") == "lost_answer" and rule.get("method", "create") == "create"
    if rule.get("do") != "http" and not lost:
        raise ValueError(f"{where}: unknown action {rule.get('do')!r}: use http, or lost_answer for create")
    if not lost and not (type(rule.get("code")) is int and 400 <= rule["code"] <= 599):
        raise ValueError(f"{where}: code must be 400 to 599")


def _check_job(rule: dict[str, Any], where: str) -> None:
    check_keys(rule, ("match", "times", *(item.name for item in fields(JobFaults))), where)
    for name in (*_SHARES, *_SECONDS):
        value = rule.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{where}: {name} must be a number ≥ 0, not {value!r}")
        if name in _SHARES and value > 1:
            raise ValueError(f"{where}: {name} must be from 0 to 1")
    for name in _FLAGS:
        if not isinstance(rule.get(name, False), bool):
            raise TypeError(f"{where}: {name} must be true or false")
    if rule.get("stuck") not in (None, *_STUCK):
        raise ValueError(f"{where}: stuck must be {' or '.join(_STUCK)}")
    if rule.get("output_info", "end") not in _OUTPUT_INFO:
        raise ValueError(f"{where}: output_info must be one of {', '.join(_OUTPUT_INFO)}")
    for name in ("end", "running_state"):
        if not isinstance(rule.get(name, ""), str):
            raise TypeError(f"{where}: {name} must be a string")
    if not isinstance(rule.get("error", {}), dict):
        raise TypeError(f"{where}: error must be an object")
    codes = rule.get("failed_codes", [503])
    if not isinstance(codes, list) or not codes or not all(type(c) is int and 400 <= c <= 599 for c in codes):
        raise ValueError(f"{where}: failed_codes must be HTTP codes from 400 to 599")

"""How the batch service of the local Vertex AI misbehaves: section ``batch`` of the fault configuration.

::

    {"synthetic": false,
     "limits": {"lines": 200000, "bytes": 1000000000},
     "calls": [{"method": "create", "match": "run-7*", "times": 1, "do": "http", "code": 503},
               {"do": "lost_answer", "times": 1}],
     "jobs": [{"failed": 0.01, "missing": 0.005, "duplicated": 0.005},
              {"match": "*-003", "end": "EXPIRED"},
              {"match": "*-004", "end": "PARTIALLY_SUCCEEDED", "finished": 0.6}]}

``match`` is a pattern (``*``, ``?``) for the display name; without it a rule fits every job. ``times`` lets a
rule apply to so many calls or jobs, counted since it was set.

``calls``: the first rule that fits happens. ``method`` is create (default), get, list, cancel or delete; ``do``
is ``http`` (``code``, ``message``) or, of a create, ``lost_answer``: the job is made, the connection breaks.

``jobs``: all rules that fit a job when it is created are put together, the later ones win. A job that waits is
let go when its rule is taken out of the configuration. See `JobFaults` for what a rule can say.

``synthetic`` is the rehearsal mode: answers come from a hash of the URIs, and the schema; nobody looks at pixels or
asks whether the objects exist. Such answers say ``modelVersion: imagebeam-emulator-synthetic``.

What chance decides depends on the seed, the display name and the place of the row in the input; never on time.
"""

import fnmatch
import math
import threading
from dataclasses import dataclass, field, fields
from typing import Any, Final

from imagebeam.emulators.core.faults import FaultConfig, check_keys

SECTION: Final = "batch"
#: What the service takes (Google, "Batch inference").
MOST_LINES: Final = 200_000
MOST_BYTES: Final = 1_000_000_000
#: Rows that a job of an embedding model takes (Google, "Get batch embeddings inferences").
MOST_EMBEDDING_LINES: Final = 1_000_000

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
    """What happens to one job.

    Attributes:
        pending_s: Seconds in PENDING.
        running_s: Seconds in RUNNING, after the first half of its rows.
        cancel_s: Seconds in CANCELLING.
        unlisted_s: Seconds for which ``list`` does not know it.
        age_s: Seconds by which its times lie in the past.
        stuck: ``PENDING`` or ``RUNNING`` (after the first half of its rows): where it stays.
        running_state: What is shown instead of RUNNING.
        end: Its last state without ``JOB_STATE_``; any text is shown as it is.
        finished: Share of its rows that are run before it ends: by default all when it ends in SUCCEEDED, none
            when in EXPIRED, else half.
        error: ``error`` of the resource: code, message, details.
        failed: Share of rows that fail, with one of ``failed_codes``.
        failed_codes: HTTP codes.
        blocked: Share of rows whose prompt is blocked.
        missing: Share of rows whose line is not written.
        duplicated: Share of rows whose line is written twice.
        truncated: The last line is cut in the middle.
        shuffled: Lines are in another order than in the input.
        echo_key: Top-level fields of the input line are echoed.
        echo_camel: The echoed request is spelt in camelCase, however it was sent.
        output_info: When ``outputInfo`` is shown: ``running``, ``end`` or ``never``.
        output_forbidden: The service agent may not write the output: FAILED before a row is run.
        incremental_only: There are only ``incremental_predictions``, with all finished rows.
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
        """The share of its rows that are run before it ends, 0 to 1."""
        if self.finished is not None:
            return self.finished
        return {"SUCCEEDED": 1.0, "EXPIRED": 0.0}.get(self.end, 0.5)


@dataclass(frozen=True, slots=True)
class CallFault:
    """What happens to one call.

    Attributes:
        code: HTTP code; ``None`` is a lost answer.
        message: What is said; ``None`` for the service's own words.
    """

    code: int | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one input may hold: lines and bytes."""

    lines: int = MOST_LINES
    bytes: int = MOST_BYTES


@dataclass(slots=True)
class BatchFaults:
    """Section ``batch`` of the configuration; safe to use from many threads.

    Args:
        config: The fault configuration; the section is checked from now on.
    """

    config: FaultConfig
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _used: dict[tuple[str, int], int] = field(init=False, default_factory=dict)
    _version: int = field(init=False, default=-1)
    _section: dict[str, Any] = field(init=False, default_factory=dict)
    _set_anew: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self.config.register(SECTION, self._announce)

    @property
    def synthetic(self) -> bool:
        """Whether answers come from a hash instead of pixels."""
        with self._lock:
            return bool(self._now().get("synthetic", False))

    def limits(self, lines: int = MOST_LINES) -> Limits:
        """Return what one input may hold.

        Args:
            lines: Rows that the job's model takes, unless the book says otherwise.
        """
        with self._lock:
            return Limits(**{"lines": lines, **self._now().get("limits", {})})

    def call(self, method: str, name: str) -> CallFault | None:
        """Return what happens to a call about a job, and count its use.

        Args:
            method: One of `METHODS`.
            name: Display name; of a list, its filter.
        """
        with self._lock:
            for number, rule in enumerate(self._now().get("calls", ())):
                if rule.get("method", "create") == method and _fits(rule, name) and self._left(rule, "calls", number):
                    code = rule["code"] if rule["do"] == "http" else None
                    return CallFault(code, rule.get("message"))
        return None

    def rules(self, name: str) -> tuple[dict[str, Any], ...]:
        """Return the rules that fit a new job, and count their use."""
        with self._lock:
            rules = enumerate(self._now().get("jobs", ()))
            return tuple(rule for number, rule in rules if _fits(rule, name) and self._left(rule, "jobs", number))

    def standing(self, rules: tuple[dict[str, Any], ...]) -> JobFaults:
        """Return what those of a job's rules say that still stand in the book."""
        with self._lock:
            present = self._now().get("jobs", ())
        return job_faults(tuple(rule for rule in rules if rule in present))

    def _left(self, rule: dict[str, Any], kind: str, number: int) -> bool:
        if rule.get("times") is None:
            return True
        used = self._used.get((kind, number), 0)
        if used < rule["times"]:
            self._used[kind, number] = used + 1
            return True
        return False

    def _now(self) -> dict[str, Any]:
        if self.config.version != self._version:
            self._version = self.config.version
            section = self.config.section(SECTION)
            if self._set_anew or section != self._section:
                self._set_anew, self._section = False, section
                self._used.clear()
        return self._section

    def _announce(self, section: dict[str, Any]) -> None:
        _check(section)
        self._set_anew = True


def job_faults(rules: tuple[dict[str, Any], ...]) -> JobFaults:
    """Put the rules of one job together; the later ones win."""
    said: dict[str, Any] = {}
    for rule in rules:
        said.update({key: value for key, value in rule.items() if key not in ("match", "times")})
    codes = said.pop("failed_codes", None)
    return JobFaults(**said) if codes is None else JobFaults(**said, failed_codes=tuple(codes))


def _fits(rule: dict[str, Any], name: str) -> bool:
    return fnmatch.fnmatchcase(name, rule.get("match") or "*")


# Reading the section


def _check(section: dict[str, Any]) -> None:
    check_keys(section, ("synthetic", "limits", "calls", "jobs"), f"section {SECTION}")
    if not isinstance(section.get("synthetic", False), bool):
        raise TypeError("synthetic must be true or false")
    limits = section.get("limits", {})
    check_keys(limits, ("lines", "bytes"), "limits")
    if any(type(value) is not int or value < 1 for value in limits.values()):
        raise ValueError("limits must be whole numbers from 1 on")
    for kind, check in (("calls", _check_call), ("jobs", _check_job)):
        rules = section.get(kind, [])
        if not isinstance(rules, list):
            raise TypeError(f"{kind} must be a list")
        for number, rule in enumerate(rules):
            where = f"{kind}[{number}]"
            if not isinstance(rule, dict):
                raise TypeError(f"{where} must be an object")
            if not isinstance(rule.get("match", ""), str):
                raise TypeError(f"{where}: match must be a text")
            if "times" in rule and (type(rule["times"]) is not int or rule["times"] < 0):
                raise ValueError(f"{where}: times must be a whole number from 0 on")
            check(rule, where)


def _check_call(rule: dict[str, Any], where: str) -> None:
    check_keys(rule, ("method", "match", "times", "do", "code", "message"), where)
    if rule.get("method", "create") not in METHODS:
        raise ValueError(f"{where}: method must be one of {', '.join(METHODS)}")
    lost = rule.get("do") == "lost_answer" and rule.get("method", "create") == "create"
    if rule.get("do") != "http" and not lost:
        raise ValueError(f"{where} does {rule.get('do')!r}: use http, or lost_answer of a create")
    if not lost and not (type(rule.get("code")) is int and 400 <= rule["code"] <= 599):
        raise ValueError(f"{where}: code must be 400 to 599")


def _check_job(rule: dict[str, Any], where: str) -> None:
    check_keys(rule, ("match", "times", *(item.name for item in fields(JobFaults))), where)
    for name in (*_SHARES, *_SECONDS):
        value = rule.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{where}: {name} must be a number from 0 on, not {value!r}")
        if name in _SHARES and value > 1:
            raise ValueError(f"{where}: {name} is a share, 0 to 1")
    for name in _FLAGS:
        if not isinstance(rule.get(name, False), bool):
            raise TypeError(f"{where}: {name} must be true or false")
    if rule.get("stuck") not in (None, *_STUCK):
        raise ValueError(f"{where}: stuck must be {' or '.join(_STUCK)}")
    if rule.get("output_info", "end") not in _OUTPUT_INFO:
        raise ValueError(f"{where}: output_info must be one of {', '.join(_OUTPUT_INFO)}")
    for name in ("end", "running_state"):
        if not isinstance(rule.get(name, ""), str):
            raise TypeError(f"{where}: {name} must be a text")
    if not isinstance(rule.get("error", {}), dict):
        raise TypeError(f"{where}: error must be an object")
    codes = rule.get("failed_codes", [503])
    if not isinstance(codes, list) or not codes or not all(type(c) is int and 400 <= c <= 599 for c in codes):
        raise ValueError(f"{where}: failed_codes must be HTTP codes, 400 to 599")

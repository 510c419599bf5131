"""What the state of a batch job asks of its supervisor, and the job resource as a record.

=====================  =========  =========================================================================
state                  step       why
=====================  =========  =========================================================================
UNSPECIFIED, QUEUED,   WAIT       not begun; 72 hours in the queue at most, then EXPIRED
PENDING
RUNNING, UPDATING      WAIT       at work; 24 hours at most, then FAILED or EXPIRED
CANCELLING             WAIT       rows that are finished are still being written
SUCCEEDED              COLLECT    every row has an answer or an error
PARTIALLY_SUCCEEDED    COLLECT    some rows have; the others are missing
FAILED, CANCELLED,     SALVAGE    rows that were finished before are kept and billed; there may be none
EXPIRED
PAUSED                 CANCEL     nobody can resume it; cancelled first, or it might run (and cost) later
any other              WAIT       this release does not know it: reported, and polled until it changes; or
                       SALVAGE    if the service says when the job ended
=====================  =========  =========================================================================

``BatchJob.done`` of google-genai 2.34 knows neither PARTIALLY_SUCCEEDED nor PAUSED, and would wait for ever.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from imagebeam.transforms.gemini.error_classes import one_line

PREFIX = "JOB_STATE_"


class Step(enum.StrEnum):
    """What the supervisor does next."""

    WAIT = "WAIT"
    """Ask again later."""

    COLLECT = "COLLECT"
    """Read the output, which must be there."""

    SALVAGE = "SALVAGE"
    """Read what output there is; what is not in it goes to another round."""

    CANCEL = "CANCEL"
    """Cancel it; when it is CANCELLED, salvage."""


@dataclasses.dataclass(frozen=True, slots=True)
class StateRule:
    """What a state means.

    Attributes:
        step: What the supervisor does.
        phase: Word for people: ``waiting``, ``running``, ``stopping``, ``done``, ``partly done``, ``failed``,
            ``cancelled``, ``expired``, ``paused`` or ``unknown``.
        reason: Why that is done, one line.
        terminal: True if the job gets no further by itself.
        known: False for a state that this release does not know: to be reported.
    """

    step: Step
    phase: str
    reason: str
    terminal: bool = False
    known: bool = True


_QUEUED = StateRule(Step.WAIT, "waiting", "in the queue, for 72 hours at most")
_RUNNING = StateRule(Step.WAIT, "running", "at work, for 24 hours at most")
_KEPT = "rows that were finished before are kept and billed"

RULES: Mapping[str, StateRule] = {
    f"{PREFIX}UNSPECIFIED": _QUEUED,
    f"{PREFIX}QUEUED": _QUEUED,
    f"{PREFIX}PENDING": _QUEUED,
    f"{PREFIX}RUNNING": _RUNNING,
    f"{PREFIX}UPDATING": _RUNNING,
    f"{PREFIX}CANCELLING": StateRule(Step.WAIT, "stopping", "finished rows are still being written"),
    f"{PREFIX}SUCCEEDED": StateRule(Step.COLLECT, "done", "every row has an answer or an error", terminal=True),
    f"{PREFIX}PARTIALLY_SUCCEEDED": StateRule(
        Step.COLLECT, "partly done", "some rows have an answer; the others are missing", terminal=True
    ),
    f"{PREFIX}FAILED": StateRule(Step.SALVAGE, "failed", f"it failed; {_KEPT}", terminal=True),
    f"{PREFIX}CANCELLED": StateRule(Step.SALVAGE, "cancelled", f"it was cancelled; {_KEPT}", terminal=True),
    f"{PREFIX}EXPIRED": StateRule(Step.SALVAGE, "expired", f"its time was over; {_KEPT}", terminal=True),
    f"{PREFIX}PAUSED": StateRule(
        Step.CANCEL, "paused", "nobody can resume it, and it might run and cost later", terminal=True
    ),
}
"""Every state of google-genai's ``JobState``."""

TERMINAL = frozenset(state for state, rule in RULES.items() if rule.terminal)


@dataclasses.dataclass(frozen=True, slots=True)
class BatchJob:
    """A ``batchPredictionJobs`` resource.

    Attributes:
        name: ``projects/NUMBER/locations/L/batchPredictionJobs/ID``; empty if the service sent none.
        display_name: The name that it was created with.
        state: As the service says it.
        created: When it was created; None if the service does not say. So are the other times.
        started: When it began to run.
        ended: When it ended.
        updated: When the service last wrote it.
        successful: Rows with an answer, blocked ones included; None if not told. So are the other counts.
        failed: Rows with an error.
        incomplete: Rows that it did not get to.
        output_directory: ``gs://`` directory of its output; None until the service says it.
        output_table: ``project.dataset.table`` of its output; None if there is none, or until it is said.
        error: What went wrong, one line without secrets; empty if nothing did.
        error_code: google.rpc.Code of that; None if not told.
    """

    name: str
    display_name: str
    state: str
    created: datetime.datetime | None = None
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    updated: datetime.datetime | None = None
    successful: int | None = None
    failed: int | None = None
    incomplete: int | None = None
    output_directory: str | None = None
    output_table: str | None = None
    error: str = ""
    error_code: int | None = None

    @property
    def rule(self) -> StateRule:
        """What its state asks for; one that is not known ends the job if the service says when it ended."""
        rule = rule_of(self.state)
        if rule.known or self.ended is None:
            return rule
        return dataclasses.replace(rule, step=Step.SALVAGE, reason=f"{rule.reason}; but it has ended", terminal=True)

    @property
    def job_id(self) -> str:
        """The last part of the name: its id inside project and location."""
        return self.name.rpartition("/")[2]

    def age_s(self, now: datetime.datetime) -> float | None:
        """Seconds from its creation to its end, or to now; never negative; None if not known."""
        if self.created is None:
            return None
        return max(0.0, ((self.ended or now) - self.created).total_seconds())


def rule_of(state: str) -> StateRule:
    """What a state asks for; one that is not known is waited for, and says so.

    >>> rule_of("JOB_STATE_EXPIRED").step
    <Step.SALVAGE: 'SALVAGE'>
    >>> rule_of("JOB_STATE_MELTING").reason
    'this release does not know the state JOB_STATE_MELTING: asked again until it changes'
    """
    known = RULES.get(state)
    if known is not None:
        return known
    shown = one_line(state)[:80] or "(none)"
    reason = f"this release does not know the state {shown}: asked again until it changes"
    return StateRule(Step.WAIT, "unknown", reason, known=False)


def parse_job(document: Any) -> BatchJob:
    """Reads a job resource.

    Args:
        document: The JSON of get, create, or an item of list. What is missing or of another type than
            documented reads as not told.

    Returns:
        The job; never raises.
    """
    job = _mapping(document)
    counts, output = _mapping(job.get("completionStats")), _mapping(job.get("outputInfo"))
    return BatchJob(
        name=_text(job.get("name")),
        display_name=_text(job.get("displayName")),
        state=_text(job.get("state")),
        created=_time(job.get("createTime")),
        started=_time(job.get("startTime")),
        ended=_time(job.get("endTime")),
        updated=_time(job.get("updateTime")),
        successful=_count(counts.get("successfulCount")),
        failed=_count(counts.get("failedCount")),
        incomplete=_count(counts.get("incompleteCount")),
        output_directory=_text(output.get("gcsOutputDirectory")).rstrip("/") or None,
        output_table=_table(job, output),
        error=one_line("; ".join(_errors(job))),
        error_code=_code(_mapping(job.get("error")).get("code")),
    )


def _table(job: Mapping[str, Any], output: Mapping[str, Any]) -> str | None:
    """The output table: what the service says, else what was asked for."""
    table, dataset = (_bare(output.get(name)) for name in ("bigqueryOutputTable", "bigqueryOutputDataset"))
    if table and dataset and "." not in table:
        table = f"{dataset}.{table}"
    wanted = _mapping(_mapping(job.get("outputConfig")).get("bigqueryDestination"))
    for name in (table, _bare(wanted.get("outputUri"))):
        # A destination may be a dataset, in which the service chooses the table's name.
        if name.rpartition(":")[2].count(".") >= 2:
            return name
    return None


def _bare(value: Any) -> str:
    return _text(value).removeprefix("bq://")


def _errors(job: Mapping[str, Any]) -> Iterator[str]:
    """The error of the job, its details, and those that stopped only parts of it."""
    partial = job.get("partialFailures")
    for error in (job.get("error"), *(partial if isinstance(partial, list) else ())):
        if isinstance(error, Mapping) and error:
            code = _code(error.get("code"))
            yield (f"code {code}: " if code is not None else "") + (_text(error.get("message")) or "no explanation")
            details = error.get("details")
            yield from (_shown(detail) for detail in (details if isinstance(details, list) else ()) if detail)
        elif error:
            yield _shown(error)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return "(nested too deep to be shown)"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    """A count, which proto JSON writes as text; −1 and whatever is no number mean that it is not known."""
    number = _code(value)
    return number if number is not None and number >= 0 else None


def _code(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:18])
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: Any) -> datetime.datetime | None:
    """A time in UTC; the service writes up to nine decimals."""
    try:
        parsed = datetime.datetime.fromisoformat(_text(value))
        return parsed.astimezone(datetime.UTC) if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)
    except (ValueError, OverflowError):
        return None

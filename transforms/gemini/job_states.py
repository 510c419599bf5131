"""The job resource of a batch job, and what its supervisor does in each state.

=====================  =========  =========================================================================
state                  step       why
=====================  =========  =========================================================================
UNSPECIFIED, QUEUED,   WAIT       not started; at most 72 hours in the queue, then EXPIRED
PENDING
RUNNING, UPDATING      WAIT       running; at most 24 hours, then FAILED or EXPIRED
CANCELLING             WAIT       finished rows are still being written
SUCCEEDED              COLLECT    every row has an answer or an error
PARTIALLY_SUCCEEDED    COLLECT    some rows have an answer; the others are missing
FAILED, CANCELLED,     SALVAGE    finished rows are kept and billed; there may be none
EXPIRED
PAUSED                 CANCEL     cannot be resumed; unless canceled, it might run and be billed later
any other              WAIT       unknown to this release: reported, and polled until it changes
                       SALVAGE    if the service reports when the job ended
=====================  =========  =========================================================================

``BatchJob.done`` of google-genai 2.34 supports neither PARTIALLY_SUCCEEDED nor PAUSED, and would wait forever.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterator, Mapping
from typing import Any

from imagebeam.transforms.gemini.error_classes import one_line
from imagebeam.transforms.gemini.json_values import dump_json, integer_of, list_of, mapping_of, text_of, utc_time_of

PREFIX = "JOB_STATE_"


class Step(enum.StrEnum):
    """What the supervisor does next."""

    WAIT = "WAIT"
    """Poll again later."""

    COLLECT = "COLLECT"
    """Read the output, which must exist."""

    SALVAGE = "SALVAGE"
    """Read the output that exists; units without an answer go to another round."""

    CANCEL = "CANCEL"
    """Cancel the job; once CANCELLED, salvage."""


@dataclasses.dataclass(frozen=True, slots=True)
class StateRule:
    """What the supervisor does in a state.

    Attributes:
        step: The next step.
        phase: Name of the state for display: ``waiting``, ``running``, ``stopping``, ``done``, ``partly done``,
            ``failed``, ``cancelled``, ``expired``, ``paused`` or ``unknown``.
        reason: Why, one line.
        terminal: True if the job has ended or is paused.
        known: False for a state that this release does not know.
    """

    step: Step
    phase: str
    reason: str
    terminal: bool = False
    known: bool = True


_QUEUED = StateRule(Step.WAIT, "waiting", "in the queue, for at most 72 hours")
_RUNNING = StateRule(Step.WAIT, "running", "running, for at most 24 hours")
_KEPT = "finished rows are kept and billed"

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
    f"{PREFIX}CANCELLED": StateRule(Step.SALVAGE, "cancelled", f"it was canceled; {_KEPT}", terminal=True),
    f"{PREFIX}EXPIRED": StateRule(Step.SALVAGE, "expired", f"it expired; {_KEPT}", terminal=True),
    f"{PREFIX}PAUSED": StateRule(
        Step.CANCEL, "paused", "it cannot be resumed, and might run and be billed later", terminal=True
    ),
}
"""Every state of google-genai's ``JobState``."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchJob:
    """A ``batchPredictionJobs`` resource.

    Attributes:
        name: ``projects/NUMBER/locations/L/batchPredictionJobs/ID``; empty if not reported.
        display_name: Display name.
        state: State reported by the service.
        created: When it was created; None if not reported, like the other times.
        started: When it started to run.
        ended: When it ended.
        updated: When the resource was last updated.
        successful: Rows with an answer, blocked ones included; None if not reported, like the other counts.
        failed: Rows with an error.
        incomplete: Rows that were not processed.
        output_directory: ``gs://`` directory of the output; None until reported.
        output_table: ``project.dataset.table`` of the output; None if there is none, or until reported.
        error: Error, one line without secrets; empty for none.
        error_code: Its google.rpc.Code; None if not reported.
        labels: Labels that were given at its creation.
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
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def output(self) -> str:
        """Where its output is, ``gs://`` or ``bq://``; empty until reported."""
        return self.output_directory or (f"bq://{self.output_table}" if self.output_table else "")

    @property
    def rule(self) -> StateRule:
        """Rule of the state; in an unknown state the job has ended if the service reports when it ended."""
        rule = rule_of(self.state)
        if rule.known or self.ended is None:
            return rule
        return dataclasses.replace(rule, step=Step.SALVAGE, reason=f"{rule.reason}; it has ended", terminal=True)

    @property
    def job_id(self) -> str:
        """Last part of the name: the id within project and location."""
        return self.name.rpartition("/")[2]

    def age_s(self, now: datetime.datetime) -> float | None:
        """Return the seconds from its creation to its end, or to now; never negative; None if unknown."""
        if self.created is None:
            return None
        return max(0.0, ((self.ended or now) - self.created).total_seconds())


def rule_of(state: str) -> StateRule:
    """Return the rule of a state; an unknown state is polled until it changes.

    >>> rule_of("JOB_STATE_EXPIRED").step
    <Step.SALVAGE: 'SALVAGE'>
    >>> rule_of("JOB_STATE_MELTING").reason
    'unknown state JOB_STATE_MELTING: polled until it changes'
    """
    reason = f"unknown state {one_line(state)[:80] or '(none)'}: polled until it changes"
    return RULES.get(state) or StateRule(Step.WAIT, "unknown", reason, known=False)


def parse_job(document: Any) -> BatchJob:
    """Parse a job resource; never raises.

    Args:
        document: JSON of get, create, or an item of list. Fields that are missing or of another type than
            documented count as not reported.
    """
    job = mapping_of(document)
    counts, output = mapping_of(job.get("completionStats")), mapping_of(job.get("outputInfo"))
    return BatchJob(
        name=text_of(job.get("name")),
        display_name=text_of(job.get("displayName")),
        state=text_of(job.get("state")),
        created=utc_time_of(job.get("createTime")),
        started=utc_time_of(job.get("startTime")),
        ended=utc_time_of(job.get("endTime")),
        updated=utc_time_of(job.get("updateTime")),
        successful=_count(counts.get("successfulCount")),
        failed=_count(counts.get("failedCount")),
        incomplete=_count(counts.get("incompleteCount")),
        output_directory=text_of(output.get("gcsOutputDirectory")).rstrip("/") or None,
        output_table=_table(job, output),
        error=one_line("; ".join(_errors(job))),
        error_code=integer_of(mapping_of(job.get("error")).get("code")),
        labels={name: text_of(value) for name, value in mapping_of(job.get("labels")).items()},
    )


def _table(job: Mapping[str, Any], output: Mapping[str, Any]) -> str | None:
    """Return the output table: as reported, else as requested."""
    wanted = mapping_of(mapping_of(job.get("outputConfig")).get("bigqueryDestination"))
    table, dataset, requested = (
        text_of(name).removeprefix("bq://")
        for name in (output.get("bigqueryOutputTable"), output.get("bigqueryOutputDataset"), wanted.get("outputUri"))
    )
    if table and dataset and "." not in table:
        table = f"{dataset}.{table}"
    for name in (table, requested):
        # A destination may be a dataset, in which the service chooses the table's name.
        if name.rpartition(":")[2].count(".") >= 2:
            return name
    return None


def _errors(job: Mapping[str, Any]) -> Iterator[str]:
    """Yield the error of the job, its details, and partial failures."""
    for error in (job.get("error"), *list_of(job.get("partialFailures"))):
        if isinstance(error, Mapping) and error:
            code = integer_of(error.get("code"))
            yield (f"code {code}: " if code is not None else "") + (text_of(error.get("message")) or "no message")
            yield from (_as_text(detail) for detail in list_of(error.get("details")) if detail)
        elif error:
            yield _as_text(error)


def _as_text(value: Any) -> str:
    return text_of(value) or dump_json(value).decode() or "(nested too deep to be shown)"


def _count(value: Any) -> int | None:
    """Return a count; None for −1 and for anything else."""
    number = integer_of(value)
    return number if number is not None and number >= 0 else None

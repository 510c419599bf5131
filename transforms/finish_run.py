"""The PTransform that ends a run: recount the outcomes from the table, reconcile the counts, write the summary."""

from __future__ import annotations

import dataclasses
import time
from decimal import Decimal
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import AsSingleton, PCollection

from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import (
    OutcomeCounts,
    Reconciliation,
    SourceCounts,
    counts_to_json,
    failure_key,
    sum_counts,
)
from imagebeam.transforms.core.errors import ReconciliationError, SystemicError
from imagebeam.transforms.core.records import Usage, utc_now
from imagebeam.transforms.engine.engine import close_engine
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import release_lease, write_event
from imagebeam.transforms.sql.outcome_queries import run_counts_query

RECOUNT_S = 90.0


def finish(settings: RunSettings, source: SourceCounts, counted: OutcomeCounts) -> dict[str, Any]:
    """End a run: recount, reconcile, write the end event and ``summary.json``, and release the lease.

    Args:
        settings: The run.
        source: Counts of the source query.
        counted: Outcomes that the pipeline counted.

    Returns:
        The summary.
    """
    close_engine(settings.run_id)
    bq = BigQueryClient(settings.engine.call_settings.project)
    reconciliation = Reconciliation(source, counted, recount(bq, settings, counted))
    recorded, problems = reconciliation.recorded, reconciliation.problems()
    state = "UNBALANCED" if problems else "STOPPED" if counted.stop else "DONE"
    summary = {
        "run_id": settings.run_id,
        "state": state,
        "task": settings.task.name,
        "version": settings.task.version,
        "model": settings.task.model,
        "lane": settings.engine.call_settings.lane,
        "results": settings.outcomes.dotted,
        "answers": settings.answers.dotted,
        "source": dataclasses.asdict(source),
        "counted": counts_to_json(counted),
        "recorded": counts_to_json(recorded),
        "problems": problems,
        "stop": counted.stop,
        "counts": reconciliation.lines(),
        "finished_at": utc_now(),
    }
    write_event(
        bq,
        settings,
        "end",
        state=state,
        units_in=source.units_in,
        ok=counted.ok,
        failed=counted.failures,
        skipped=counted.skipped,
        already_done=source.already_done,
        outdated=source.outdated,
        calls=counted.calls,
        throttled=counted.throttled,
        prompt_tokens=recorded.usage.prompt_tokens,
        cached_tokens=recorded.usage.cached_tokens,
        output_tokens=recorded.usage.output_tokens,
        thought_tokens=recorded.usage.thought_tokens,
        cost_usd=None if recorded.cost_usd is None else str(recorded.cost_usd),
        message="; ".join(problems) or counted.stop,
        books=orjson.dumps({name: summary[name] for name in ("source", "counted")}).decode(),
    )
    storage.write(settings.summary_path, orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    release_lease(bq, settings)
    return summary


def recount(bq: BigQueryClient, settings: RunSettings, counted: OutcomeCounts) -> OutcomeCounts:
    """Count the run's outcomes in the table, one per unit.

    A query can miss rows that were just streamed, so a count that is too low is repeated for up to
    :data:`RECOUNT_S` seconds.
    """
    give_up, wait = time.monotonic() + RECOUNT_S, 0.2
    while True:
        recorded = _recount_once(bq, settings)
        if recorded.ok + recorded.failures >= counted.ok + counted.failures or time.monotonic() > give_up:
            return recorded
        time.sleep(wait)
        wait = min(2 * wait, 10.0)


def _recount_once(bq: BigQueryClient, settings: RunSettings) -> OutcomeCounts:
    total = OutcomeCounts()
    query = run_counts_query(settings.outcomes, settings.run_id)
    for row in bq.query_rows(query, location=settings.location):
        units = int(row["units"])
        ok = row["status"] == "OK"
        total = total + OutcomeCounts(
            ok=units if ok else 0,
            failed={} if ok else {failure_key(row["status"], row["reason"]): units},
            usage=Usage(
                int(row["prompt_tokens"] or 0),
                int(row["cached_tokens"] or 0),
                int(row["output_tokens"] or 0),
                int(row["thought_tokens"] or 0),
            ),
            cost_usd=None if row["unpriced"] else Decimal(row["cost_usd"] or 0),
        )
    return total


@dataclasses.dataclass
class FinishRun(beam.PTransform[PCollection[OutcomeCounts], PCollection[dict[str, Any]]]):
    """A PTransform that ends a run after all calls and emits its summary.

    ``CombineGlobally`` emits exactly one element after everything upstream, also without units. The only step that can
    raise is the last one, after a reshuffle, so that its retry does not repeat earlier steps.

    Attributes:
        settings: The run.
        source: Counts of the source query, one element.
    """

    settings: RunSettings
    source: PCollection[SourceCounts]

    def expand(self, counts: PCollection[OutcomeCounts]) -> PCollection[dict[str, Any]]:
        """Apply the transform."""
        summary: PCollection[dict[str, Any]] = (
            counts
            | "Sum" >> beam.CombineGlobally(sum_counts)
            | "Finish" >> beam.Map(_finish, self.settings, AsSingleton(self.source))
            | "Settle" >> beam.Reshuffle()
            | "FailOnMismatch" >> beam.Map(_fail_on_mismatch, self.settings)
        )
        return summary


def _finish(counted: OutcomeCounts, settings: RunSettings, source: SourceCounts) -> dict[str, Any]:
    with record_failure(settings):
        return finish(settings, source, counted)


def _fail_on_mismatch(summary: dict[str, Any], settings: RunSettings) -> dict[str, Any]:
    with record_failure(settings):
        if summary["problems"]:
            raise ReconciliationError("counts do not reconcile: " + "; ".join(summary["problems"]))
        if summary["stop"]:
            raise SystemicError(summary["stop"])
    return summary

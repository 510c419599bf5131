"""The PTransforms that end a run: the books are recounted from the table, balanced and told."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import AsSingleton, PCollection

from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import Counts, Planned, Reconciliation, counts_to_json, failure_key, sum_counts
from imagebeam.transforms.core.errors import ReconciliationError, SystemicError
from imagebeam.transforms.core.records import Usage, utc_now
from imagebeam.transforms.engine.engine import close_engine
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.outcome_queries import run_counts_query
from imagebeam.transforms.start_run import write_event

RECOUNT_S = 90.0


@dataclasses.dataclass
class FinishRun(beam.PTransform[PCollection[Counts], PCollection[dict[str, Any]]]):
    """Ends a run after ALL calls: recounts, balances, writes the end event and ``summary.json``.

    ``CombineGlobally`` with its default emits exactly one element after everything before it, also when
    nothing was due. What can raise comes last, behind a reshuffle: a retry of the verdict repeats nothing.
    Gives the summary.
    """

    settings: RunSettings
    planned: PCollection[Planned]

    def expand(self, counts: PCollection[Counts]) -> PCollection[dict[str, Any]]:
        """Wires sum, finish and verdict."""
        summary: PCollection[dict[str, Any]] = (
            counts
            | "Sum" >> beam.CombineGlobally(_SumCounts())
            | "Finish" >> beam.ParDo(_Finish(self.settings), planned=AsSingleton(self.planned))
            | "Settle" >> beam.Reshuffle()
            | "Verdict" >> beam.ParDo(_Verdict(self.settings))
        )
        return summary


class _SumCounts(beam.CombineFn):
    def create_accumulator(self) -> Counts:
        return Counts()

    def add_input(self, accumulator: Counts, element: Counts) -> Counts:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[Counts]) -> Counts:
        return sum_counts(accumulators)

    def extract_output(self, accumulator: Counts) -> Counts:
        return accumulator


class _Finish(beam.DoFn):
    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def process(self, element: Counts, planned: Planned) -> Iterator[dict[str, Any]]:
        with record_failure(self._settings):
            yield finish(self._settings, planned, element)


class _Verdict(beam.DoFn):
    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def process(self, element: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with record_failure(self._settings):
            if element["problems"]:
                raise ReconciliationError("the books do not balance: " + "; ".join(element["problems"]))
            if element["stop"]:
                raise SystemicError(element["stop"])
            yield element


def finish(settings: RunSettings, planned: Planned, counted: Counts) -> dict[str, Any]:
    """Recounts, balances and tells. Returns the summary, which is also the run's ``summary.json``."""
    close_engine(settings.run_id)
    bq = BigQueryClient(settings.engine.call_settings.project)
    books = Reconciliation(planned, counted, recount(bq, settings, counted))
    problems = books.problems()
    state = "UNBALANCED" if problems else "STOPPED" if counted.stop else "DONE"
    recorded = books.recorded
    summary = {
        "run_id": settings.run_id,
        "state": state,
        "task": settings.task.name,
        "version": settings.task.version,
        "model": settings.task.model,
        "lane": settings.engine.call_settings.lane,
        "results": settings.outcomes.dotted,
        "answers": settings.answers.dotted,
        "planned": dataclasses.asdict(planned),
        "counted": counts_to_json(counted),
        "recorded": counts_to_json(recorded),
        "problems": problems,
        "stop": counted.stop,
        "books": books.lines(),
        "finished_at": utc_now(),
    }
    write_event(
        bq,
        settings,
        "end",
        state=state,
        units_in=planned.units_in,
        ok=counted.ok,
        failed=counted.failures,
        skipped=counted.skipped,
        already_done=planned.already_done,
        outdated=planned.outdated,
        calls=counted.calls,
        throttled=counted.throttled,
        prompt_tokens=recorded.usage.prompt_tokens,
        cached_tokens=recorded.usage.cached_tokens,
        output_tokens=recorded.usage.output_tokens,
        thought_tokens=recorded.usage.thought_tokens,
        cost_usd=str(recorded.cost_usd),
        message="; ".join(problems) or counted.stop,
        books=orjson.dumps({"planned": summary["planned"], "counted": summary["counted"]}).decode(),
    )
    storage.write(settings.summary_path, orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    destination = settings.engine.destination
    if destination is not None and destination.lease is not None:
        lease.release(bq, destination.lease, settings.run_id)
    return summary


def recount(bq: BigQueryClient, settings: RunSettings, counted: Counts) -> Counts:
    """What the table holds for this run, one row per unit.

    Streamed rows can take a moment to be seen by a query, so a count that is short is taken again for a
    while; a count that stays short is told as it is.
    """
    give_up, wait = time.monotonic() + RECOUNT_S, 0.2
    while True:
        recorded = _recount_once(bq, settings)
        if recorded.ok + recorded.failures >= counted.ok + counted.failures or time.monotonic() > give_up:
            return recorded
        time.sleep(wait)
        wait = min(2 * wait, 10.0)


def _recount_once(bq: BigQueryClient, settings: RunSettings) -> Counts:
    total = Counts()
    query = run_counts_query(settings.outcomes, settings.run_id)
    for row in bq.query_rows(query, location=settings.location):
        units = int(row["units"])
        ok = row["status"] == "OK"
        total = total + Counts(
            ok=units if ok else 0,
            failed={} if ok else {failure_key(row["status"], row["reason"]): units},
            usage=Usage(
                int(row["prompt_tokens"] or 0),
                int(row["cached_tokens"] or 0),
                int(row["output_tokens"] or 0),
                int(row["thought_tokens"] or 0),
            ),
            cost_usd=Decimal(row["cost_usd"] or 0),
        )
    return total

"""Embeds what is due in passes of SQL jobs, until nothing is left that may be asked again.

What keeps it safe, see :mod:`imagebeam.pipeline.embed_sql.statements`: a chunk is asked about by one job with one
name, whose result lands in a table of its own; vectors are written from there, then outcomes, then the table is
dropped. A later run finds the tables and the jobs that a dead one left, and takes them in before it asks.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import google.api_core.exceptions as api_errors

from imagebeam.pipeline.embed_sql import jobs as sql_jobs
from imagebeam.pipeline.embed_sql import statements as route
from imagebeam.pipeline.embed_sql.statements import NO_URI_CHUNK, Asked, StagingTable, Target
from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts, failure_key, sum_counts
from imagebeam.transforms.core.errors import SystemicError, first_line
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.sql.unit_rows import source_counts_from_row

#: What can be asked again, as the books call it.
LEFT = failure_key("UNAVAILABLE", "RETRYABLE")
FORBIDDEN = failure_key("IMAGE_ERROR", "FORBIDDEN")
#: Longest pause between two passes, in seconds.
LONGEST_PAUSE_S = 300.0

Say = Callable[[str], None]


class LostError(Exception):
    """The lease is somebody else's: nothing more may be done."""


@dataclasses.dataclass(frozen=True, slots=True)
class Passes:
    """How passes are made.

    Attributes:
        asked: How the model is asked.
        rows: Rows per job at most.
        jobs: Jobs at once at most, 1 to 5.
        most: Passes at most.
        pause_s: Seconds before the second pass; doubled while passes gain nothing.
        price_usd: Price of one image; None when it is not known.
    """

    asked: Asked
    rows: int = 40_000
    jobs: int = route.CONCURRENT_JOBS
    most: int = 20
    pause_s: float = 10.0
    price_usd: Decimal | None = None


@dataclasses.dataclass(slots=True)
class LeaseKeeper:
    """Keeps the lease alive while jobs run, from whichever thread comes by; and knows why to stop.

    Attributes:
        bq: BigQuery client.
        table: The lease.
        holder: The run that holds it.
        stop: Why nothing new is to be begun; None while all is well.
        forbidden: What was said about the images of the trial, if none of them may be read.
    """

    bq: BigQueryClient
    table: TableName
    holder: str
    stop: str | None = None
    forbidden: str | None = None
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    _at: float = dataclasses.field(default_factory=time.monotonic)

    def drain(self, reason: str) -> str:
        """Start no new job; return what the run waits for."""
        self.stop = self.stop or reason
        return (
            "no new jobs; waiting for those in progress (stopped at once, they continue in BigQuery, and the next run "
            "recovers what they embed)"
        )

    def keep_alive(self) -> None:
        """Extends the lease when it is time.

        Raises:
            LostError: It is lost.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._at < lease.EXTEND_EVERY_S:
                return
            self._at = time.monotonic()
            if not lease.extend(self.bq, self.table, self.holder):
                self.stop = self.stop or "systemic: the lease is lost: another run has taken it"
                raise LostError
        finally:
            self._lock.release()


@dataclasses.dataclass(slots=True)
class Embedder:
    """Does the passes of one run.

    Attributes:
        bq: BigQuery client.
        target: Whose outcomes are written.
        passes: How.
        keeper: The lease.
        location: Where all of it is.
        labels: Billing labels of the jobs.
        say: Takes a line for the person.
    """

    bq: BigQueryClient
    target: Target
    passes: Passes
    keeper: LeaseKeeper
    location: str
    labels: Mapping[str, str]
    say: Say

    def embed(self, due: Query, first: StagingTable) -> tuple[SourceCounts, OutcomeCounts]:
        """Asks about all that is due; what cannot be asked about stays due.

        Args:
            due: The query of the due units.
            first: Where the first pass keeps them.

        Returns:
            What was found, and what became of it.
        """
        self._run(route.pending_sql(due, first, self.target, rows=self.passes.rows), first.job)
        (row,) = self._rows(route.counts_sql(first))
        planned = source_counts_from_row(row)
        counts = self._all_passes(first, planned.remaining) if planned.remaining else OutcomeCounts()
        if not planned.remaining:
            self.drop([first])
        missing = planned.remaining - counts.ok - counts.failures
        return planned, dataclasses.replace(counts, read=planned.remaining, skipped=missing, stop=self.keeper.stop)

    def settle(self, landed: StagingTable, *, last: bool) -> None:
        """Writes the vectors of a chunk, then its outcomes; doing it again does no harm."""
        self._run(route.vectors_sql(landed, self.target), f"{landed.job}-vectors")
        outcomes = route.outcomes_sql(landed, self.target, last=last, price_usd=self.passes.price_usd)
        self._run(outcomes, f"{landed.job}-{'rest' if last else 'outcomes'}")

    def _all_passes(self, first: StagingTable, due: int) -> OutcomeCounts:
        pending, total, pause = first, OutcomeCounts(), self.passes.pause_s
        while True:
            chunks = self.chunks(pending)
            came = self._one_pass(pending, chunks, trial=pending.number == 1)
            left = sum(counts.failed.get(LEFT, 0) for counts in came.values())
            gained = sum(counts.ok + counts.failures for counts in came.values()) - left
            self.say(f"pass {pending.number}  {gained:,} of {due:,} settled, {left:,} to be asked again")
            over = not left or self.keeper.stop is not None or pending.number >= self.passes.most
            if over and left and self.keeper.stop is None:
                for chunk, counts in came.items():
                    if counts.failed.get(LEFT):
                        self.settle(dataclasses.replace(pending, chunk=chunk), last=True)
            elif left:
                came = {chunk: _without_left(counts) for chunk, counts in came.items()}
            total = total + sum_counts(came.values())
            following = dataclasses.replace(pending, number=pending.number + 1)
            if not over:
                pause = self.passes.pause_s if gained else min(2 * pause, LONGEST_PAUSE_S)
                self._pause(pause)
                self._run(route.rest_sql(pending, self.target, rows=self.passes.rows), following.job)
            self.drop([*(dataclasses.replace(pending, chunk=chunk) for chunk in came), pending])
            if over:
                return total
            pending = following

    def _one_pass(self, pending: StagingTable, chunks: Sequence[int], *, trial: bool) -> dict[int, OutcomeCounts]:
        """Asks about the chunks of a pass; a chunk that was not begun is not in the result."""
        came: dict[int, OutcomeCounts] = {}
        alone = [chunk for chunk in chunks if chunk == NO_URI_CHUNK or (trial and chunk == 0)]
        for chunk in alone:
            if self.keeper.stop is None:
                came[chunk] = self._chunk(dataclasses.replace(pending, chunk=chunk))
        if trial and 0 in came and set(came[0].failed) == {FORBIDDEN} and not came[0].ok:
            self.keeper.stop = self.keeper.stop or "systemic: no image may be read"
            tally = self._rows(route.tally_sql(dataclasses.replace(pending, chunk=0)))
            self.keeper.forbidden = str(tally[0]["status"])
        others = [chunk for chunk in chunks if chunk not in alone]
        with ThreadPoolExecutor(self.passes.jobs, thread_name_prefix="embed") as threads:
            begun = {chunk: threads.submit(self._begin, dataclasses.replace(pending, chunk=chunk)) for chunk in others}
            results = {chunk: future.result() for chunk, future in begun.items()}
        return {**came, **{chunk: counts for chunk, counts in results.items() if counts is not None}}

    def _begin(self, landed: StagingTable) -> OutcomeCounts | None:
        if self.keeper.stop is not None:
            return None
        try:
            return self._chunk(landed)
        except Exception:
            self.keeper.stop = self.keeper.stop or "systemic: a job failed"
            raise

    def _chunk(self, landed: StagingTable) -> OutcomeCounts:
        self._run(route.embed_sql(landed, self.passes.asked), landed.job)
        counts = OutcomeCounts()
        for row in self._rows(route.tally_sql(landed)):
            counts = counts + self._tallied(row, asked=landed.chunk != NO_URI_CHUNK)
        self.settle(landed, last=False)
        return counts

    def _tallied(self, row: Mapping[str, Any], *, asked: bool) -> OutcomeCounts:
        units, calls = int(row["units"]), int(row["units"]) if asked else 0
        if row["outcome"] == "OK":
            return OutcomeCounts(ok=units, calls=calls, cost_usd=units * (self.passes.price_usd or Decimal(0)))
        key = failure_key(row["outcome"], row["reason"])
        return OutcomeCounts(failed={key: units}, calls=calls, throttled=units if key == LEFT else 0)

    def chunks(self, pending: StagingTable) -> list[int]:
        """The chunks of a pass."""
        return [int(row["chunk"]) for row in self._rows(route.chunks_sql(pending))]

    def _run(self, query: Query, name: str) -> None:
        keep_alive = self.keeper.keep_alive
        keep_alive()
        sql_jobs.run_job(self.bq, query, name, location=self.location, labels=self.labels, keep_alive=keep_alive)

    def _rows(self, query: Query) -> list[dict[str, Any]]:
        return self.bq.query_rows(query, location=self.location)

    def drop(self, tables: Sequence[StagingTable]) -> None:
        """Drops scratch tables."""
        for scratch in tables:
            self.bq.drop_table(scratch.table)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.keeper.stop is None and time.monotonic() < until:
            self.keeper.keep_alive()
            time.sleep(min(0.2, max(0.0, until - time.monotonic())))


def recover(embedder: Embedder, mark: str) -> None:
    """Takes in what runs of this task that died have left: waits for their jobs, writes what they embedded.

    Args:
        embedder: Of the run that does it; outcomes go to the run that asked.
        mark: The task, as scratch tables name it.
    """
    bq, outcomes = embedder.bq, embedder.target.outcomes
    names = bq.list_tables(outcomes.project, outcomes.dataset)
    found = [StagingTable.read(dataclasses.replace(outcomes, table=name)) for name in sorted(names)]
    left = [scratch for scratch in found if scratch is not None and scratch.mark == mark]
    for pending in [scratch for scratch in left if scratch.chunk is None]:
        target = Target.read(outcomes, _note(bq, pending.table))
        if target is None:
            continue
        theirs = dataclasses.replace(embedder, target=target)
        chunks = [dataclasses.replace(pending, chunk=chunk) for chunk in theirs.chunks(pending)]
        landed = [chunk for chunk in chunks if _has_landed(embedder, chunk)]
        for chunk in landed:
            theirs.settle(chunk, last=False)
        embedder.say(f"taken in {len(landed)} jobs of run {target.run_id}, which did not come to its end")
        theirs.drop([*landed, pending])


def _note(bq: BigQueryClient, table: TableName) -> str:
    """The description of a table; empty when it has none, or is gone."""
    try:
        return str(bq.client.get_table(table.dotted).description or "")
    except api_errors.NotFound:
        return ""
    except (api_errors.GoogleAPIError, OSError) as error:
        raise SystemicError(f"reading table {table.dotted}: {first_line(error)}") from None


def _has_landed(embedder: Embedder, chunk: StagingTable) -> bool:
    """Waits for the jobs of a chunk that are still going on; True if its table is there then."""
    for job in sql_jobs.find_jobs(embedder.bq, chunk.job, location=embedder.location):
        sql_jobs.wait_for_job(job, embedder.keeper.keep_alive)
    return embedder.bq.get_table(chunk.table) is not None


def _without_left(counts: OutcomeCounts) -> OutcomeCounts:
    """OutcomeCounts without what is asked again."""
    return dataclasses.replace(counts, failed={key: units for key, units in counts.failed.items() if key != LEFT})


def stopped(error: Exception) -> SystemicError:
    """A refusal in the middle of a run, as the run's own error."""
    if isinstance(error, LostError):
        return SystemicError("the lease is lost: another run of this task has taken it; nothing was lost")
    return SystemicError(f"BigQuery refuses a statement of the run: {error}")

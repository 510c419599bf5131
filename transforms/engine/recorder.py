"""Record outcomes in BigQuery, in micro-batches as they arrive, and recover those of an earlier attempt.

An outcome counts only once it is recorded. A vector is recorded before its outcome: a crash in between leaves a
vector whose call is repeated, and never an outcome without its vector. The recorder flushes every quarter of a
second or every 400 rows. While BigQuery is unavailable it retries, and delays new calls while too many outcomes wait,
so that no answer is billed that cannot be recorded.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import orjson
import requests.exceptions

from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import SystemicError, first_line
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Answer, Outcome, Status, Unit
from imagebeam.transforms.engine.settings import EngineSettings
from imagebeam.transforms.sql.embedding_tables import embedding_row
from imagebeam.transforms.sql.outcome_queries import answered_units_query
from imagebeam.transforms.sql.tables import outcome_row, row_id
from imagebeam.transforms.tasks.task import Task

FLUSH_S = 0.25
FLUSH_ROWS = 400
WAITING_ROWS = 2_000
GIVE_UP_S = 600.0
TOO_LARGE = 413
#: Approximate bytes of an insert of vectors; BigQuery allows 10 MB. A number has about 20 characters.
INSERT_BYTES, NUMBER_BYTES, ROW_BYTES = 8_000_000, 24, 2_000

Recorded = Callable[[Outcome], None]
_log = logging.getLogger(__name__)


class PassThrough:
    """Record nothing: for pipelines that emit outcomes as elements and store them with their own sink."""

    async def wait_for_room(self) -> None:
        """Return at once."""

    def put(self, outcome: Outcome, recorded: Recorded) -> None:
        """Return the outcome at once."""
        recorded(outcome)

    async def close(self) -> None:
        """Do nothing."""


class VectorTable:
    """The table of the vectors of one run.

    Args:
        table: The table.
        task: The embedding task.
        run_id: The run.

    Raises:
        TypeError: The task is not an embedding task.
    """

    def __init__(self, table: TableName, task: Task, run_id: str) -> None:
        dimension = task.vector_dimension
        if dimension is None:
            raise TypeError(f"task {task.name} has no vectors")
        self.table = table
        self.rows_at_once = max(1, INSERT_BYTES // (NUMBER_BYTES * dimension + ROW_BYTES))
        self._columns: dict[str, Any] = {
            "model": task.model,
            "dimension": dimension,
            "version": task.version,
            "run_id": run_id,
        }

    def row(self, outcome: Outcome) -> dict[str, Any]:
        """Return the row of an outcome's vector."""
        return embedding_row(outcome, **self._columns)


class BigQueryRecorder:
    """Stream outcomes into the table ``outcomes``.

    Args:
        bq: BigQuery client.
        table: The table ``outcomes``.
        columns: Columns that are the same in every row of the run: task, version, model, lane, run_id.
        executor: Threads for the blocking inserts.
        on_error: Called once, with the reason, when outcomes can no longer be recorded.
        vectors: The table of the vectors, for an embedding task.
    """

    def __init__(
        self,
        bq: BigQueryClient,
        table: TableName,
        columns: Mapping[str, str],
        executor: concurrent.futures.Executor,
        on_error: Callable[[SystemicError], None],
        *,
        vectors: VectorTable | None = None,
    ) -> None:
        self._bq = bq
        self._table = table
        self._columns: dict[str, Any] = dict(columns)
        self._executor = executor
        self._on_error = on_error
        self._vectors = vectors
        self._waiting: list[tuple[Outcome, Recorded]] = []
        self._in_flush = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def wait_for_room(self) -> None:
        """Wait while :data:`WAITING_ROWS` or more outcomes are queued."""
        await self._room.wait()

    def put(self, outcome: Outcome, recorded: Recorded) -> None:
        """Queue an outcome; ``recorded`` is called once BigQuery has it."""
        self._waiting.append((outcome, recorded))
        self._empty.clear()
        if len(self._waiting) + self._in_flush >= WAITING_ROWS:
            self._room.clear()
        self._wake.set()

    async def close(self) -> None:
        """Wait until all queued outcomes are in BigQuery, or ``on_error`` was called; then stop."""
        await self._empty.wait()
        self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            if len(self._waiting) < FLUSH_ROWS:
                await asyncio.sleep(FLUSH_S)
            batch, self._waiting = self._waiting[:FLUSH_ROWS], self._waiting[FLUSH_ROWS:]
            self._in_flush = len(batch)
            try:
                kept = await loop.run_in_executor(self._executor, self._store, [item[0] for item in batch])
            except Exception as error:
                self._on_error(
                    error
                    if isinstance(error, SystemicError)
                    else SystemicError(f"recording outcomes: {type(error).__name__}: {first_line(error)}")
                )
                self._room.set()
                self._empty.set()
                return
            self._in_flush = 0
            for (_, recorded), outcome in zip(batch, kept, strict=True):
                recorded(outcome)
            if len(self._waiting) < WAITING_ROWS:
                self._room.set()
            if not self._waiting:
                self._wake.clear()
                self._empty.set()

    def _store(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Record a batch, in a thread. Return the outcomes as they were recorded, in the same order."""
        kept = self._store_vectors(outcomes)
        row = functools.partial(outcome_row, **self._columns)
        again = self._insert_outcomes(self._table, kept, row)
        for index, reason in again.items():
            kept[index] = rejected(kept[index], reason)
        if again and (refused := self._insert_outcomes(self._table, [kept[index] for index in again], row)):
            raise SystemicError(
                f"BigQuery rejects rows of {self._table.dotted}: {next(iter(refused.values()))[:300]}; "
                "check that imagebeam created this table"
            )
        return kept

    def _store_vectors(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Record the vectors of a batch. Return the outcomes without them; a rejected vector makes its outcome fail."""
        table = self._vectors
        if table is None:
            return list(outcomes)
        size = table.rows_at_once
        held = [index for index, outcome in enumerate(outcomes) if outcome.answer.vector is not None]
        parts = [held[start : start + size] for start in range(0, len(held), size)]

        def insert(part: Sequence[int]) -> dict[int, str]:
            refused = self._insert_outcomes(table.table, [outcomes[index] for index in part], table.row)
            return {part[place]: reason for place, reason in refused.items()}

        # In parallel: a batch of long vectors is several requests. One batch at a time waits here, so threads remain.
        reasons: dict[int, str] = {}
        for refused in self._executor.map(insert, parts) if len(parts) > 1 else map(insert, parts):
            reasons |= refused
        return [
            rejected(outcome, reasons[index])
            if index in reasons
            else dataclasses.replace(outcome, answer=dataclasses.replace(outcome.answer, vector=None))
            for index, outcome in enumerate(outcomes)
        ]

    def _insert_outcomes(
        self, table: TableName, outcomes: Sequence[Outcome], row: Callable[[Outcome], dict[str, Any]]
    ) -> dict[int, str]:
        return self._insert(
            table, [row(outcome) for outcome in outcomes], [row_id(outcome, **self._columns) for outcome in outcomes]
        )

    def _insert(self, table: TableName, rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> dict[int, str]:
        give_up, wait = time.monotonic() + GIVE_UP_S, 0.2
        while True:
            try:
                return self._bq.insert_rows(table, rows, ids)
            except (
                api_errors.Forbidden,
                api_errors.Unauthorized,
                google.auth.exceptions.RefreshError,
            ) as error:
                raise SystemicError(
                    f"no permission to write to {table.dotted}: {first_line(error)}; the account needs "
                    "roles/bigquery.dataEditor on the dataset"
                ) from None
            except (
                # NotFound is retried too: streaming may not find a new table at first.
                api_errors.GoogleAPIError,
                google.auth.exceptions.TransportError,
                requests.exceptions.RequestException,
                OSError,
            ) as error:
                if getattr(error, "code", None) == TOO_LARGE:
                    return self._insert_halves(table, rows, ids)
                if time.monotonic() > give_up:
                    raise SystemicError(
                        f"outcomes could not be recorded for {GIVE_UP_S:.0f} s: {first_line(error)}"
                    ) from None
                _log.warning("retrying to record outcomes: %s", first_line(error))
                time.sleep(wait)
                wait = min(wait * 2, 10.0)

    def _insert_halves(self, table: TableName, rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> dict[int, str]:
        if len(rows) == 1:
            return {0: "the row is larger than BigQuery allows"}
        middle = len(rows) // 2
        left = self._insert(table, rows[:middle], ids[:middle])
        right = self._insert(table, rows[middle:], ids[middle:])
        return {**left, **{middle + index: reason for index, reason in right.items()}}


def rejected(outcome: Outcome, reason: str) -> Outcome:
    """Return a smaller outcome for a row that BigQuery rejects: the answer as raw text, and only plain columns."""
    answer, raw = outcome.answer, outcome.answer.raw_text
    if answer.value is not None:
        raw = orjson.dumps(dict(answer.value), default=str).decode()
        answer = dataclasses.replace(answer, status=Status.INVALID_ANSWER, reason="ROW_REJECTED", value=None)
    message, raw = f"BigQuery rejected the row: {reason}"[:500], None if raw is None else raw[:4000]
    return dataclasses.replace(
        outcome,
        unit=dataclasses.replace(outcome.unit, extra={}, latitude=None, longitude=None, capture_time=None),
        answer=dataclasses.replace(answer, message=message, raw_text=raw, vector=None),
    )


def recover_outcomes(
    bq: BigQueryClient, settings: EngineSettings, batch_id: str, units: Sequence[Unit]
) -> Mapping[tuple[str, str], Outcome]:
    """Claim a unit batch, and find the outcomes that an earlier attempt recorded. Blocking.

    The first attempt creates the claim object. Only a later one, which finds it, queries BigQuery.

    Args:
        bq: BigQuery client.
        settings: The engine's settings.
        batch_id: Id of the unit batch.
        units: Its units.

    Returns:
        Outcomes by unit id and input digest.
    """
    destination = settings.destination
    if destination is None or destination.claims is None:
        return {}
    if storage.create(storage.join(destination.claims, batch_id), str(os.getpid()).encode()):
        return {}
    task = settings.call_settings.task
    query = answered_units_query(destination.outcomes, task.name, task.version, [unit.unit_id for unit in units])
    by_key = {(unit.unit_id, unit.input_digest): unit for unit in units}
    return {
        key: Outcome(by_key[key], Answer(Status(row["status"]), row.get("reason")))
        for row in bq.query_rows(query)
        if (key := (row["unit_id"], row["input_digest"])) in by_key
    }

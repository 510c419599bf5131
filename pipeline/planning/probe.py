"""Process a few remaining units before a run, to measure their usage.

A small run without Beam: lease, engine, outcomes and counts are those of every run, so its answers are kept and the
run that follows does not pay for them again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import socket
from typing import Any, Final

from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts, sum_counts
from imagebeam.transforms.core.errors import ImagebeamError
from imagebeam.transforms.core.query import Parameter, Query
from imagebeam.transforms.core.records import Unit
from imagebeam.transforms.core.unit_batch import pack
from imagebeam.transforms.engine.engine import Sink, close_engine, get_engine
from imagebeam.transforms.engine.unit_caller import CallResult
from imagebeam.transforms.finish_run import finish
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import prepare_tables, release_lease, write_event
from imagebeam.transforms.sql.remaining_query import build_remaining_query
from imagebeam.transforms.sql.source_units import has_uri
from imagebeam.transforms.sql.unit_rows import unit_from_row

CHECK_ENGINE_S: Final = 1.0


def process_units(bq: BigQueryClient, run: RunSettings, units: int) -> dict[str, Any]:
    """Process some remaining units, a deterministic subset, and record the outcomes.

    Args:
        bq: BigQuery client.
        run: A run with its transport decided, and a cap of as many calls.
        units: Maximum number of units. Units without image URIs are left out.

    Returns:
        The summary, as of every run.

    Raises:
        UserError: Another run of the task is in progress.
        SystemicError: A service cannot be used.
    """
    prepare_tables(bq, run)
    if run.lease is not None:
        lease.acquire(bq, run.lease, run.run_id)
    try:
        write_event(bq, run, "start", state="RUNNING", host=socket.gethostname(), pid=os.getpid())
        rows = bq.query_rows(
            sample_units_query(build_remaining_query(run.query_spec()), units),
            location=run.location,
            maximum_bytes_billed=run.maximum_bytes_billed,
        )
        found = [unit_from_row(row) for row in rows]
        counts = _call_engine(run, found)
        return finish(run, SourceCounts(units_in=len(found), remaining=len(found), remaining_new=len(found)), counts)
    finally:
        close_engine(run.run_id)
        with contextlib.suppress(ImagebeamError):
            release_lease(bq, run)


def sample_units_query(remaining: Query, units: int) -> Query:
    """Build the query for some remaining units whose images all have a URI, ordered by the hash of their ids."""
    return Query(
        f"SELECT remaining.*\nFROM (\n{remaining.sql}\n) AS remaining\n"
        "WHERE ARRAY_LENGTH(remaining.images) > 0\n"
        f"  AND NOT EXISTS (SELECT 1 FROM UNNEST(remaining.images) AS i WHERE NOT {has_uri('i.uri')})\n"
        "ORDER BY TO_HEX(SHA256(remaining.unit_id)), remaining.unit_id\nLIMIT @probe_units",
        (*remaining.parameters, Parameter("probe_units", "INT64", units)),
    )


def _call_engine(run: RunSettings, units: list[Unit]) -> OutcomeCounts:
    if not units:
        return OutcomeCounts()
    engine = get_engine(run.engine)
    sink: Sink = queue.SimpleQueue()
    engine.submit(pack(units), sink)
    results: list[CallResult] = []
    while len(results) < len(units):
        try:
            results.append(sink.get(timeout=CHECK_ENGINE_S)[1])
        except queue.Empty:
            engine.check()
    return dataclasses.replace(sum_counts(result.counts for result in results), stop=engine.stop_reason)

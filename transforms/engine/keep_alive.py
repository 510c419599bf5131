"""Keep a run alive while its engine works: extend the lease and write heartbeats."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import OutcomeCounts
from imagebeam.transforms.core.errors import first_line
from imagebeam.transforms.core.records import utc_now
from imagebeam.transforms.engine.drain import Drain
from imagebeam.transforms.engine.settings import Destination

_log = logging.getLogger(__name__)


async def keep_alive(
    bq: BigQueryClient,
    destination: Destination,
    run_id: str,
    *,
    drain: Drain,
    counts: Callable[[], OutcomeCounts],
    blocking: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> None:
    """Extend the lease and write a heartbeat every 30 seconds, until canceled; a lost lease starts draining.

    Args:
        bq: BigQuery client.
        destination: Where lease and heartbeats are.
        run_id: The run.
        drain: The engine's draining state.
        counts: Returns the counts so far.
        blocking: Runs a blocking call in a thread.
    """
    while True:
        await asyncio.sleep(lease.EXTEND_EVERY_S)
        try:
            held = destination.lease is None or await blocking(
                functools.partial(lease.extend, bq, destination.lease, run_id)
            )
            if destination.runs is not None:
                event = _heartbeat(destination, counts(), draining=drain.started)
                row_id = f"{event['run_id']}-{event['at']}"
                await blocking(functools.partial(bq.insert_row, destination.runs, event, row_id))
        except Exception as error:
            # One missed extension is harmless: the lease outlasts several.
            _log.warning("could not extend the lease or write a heartbeat, will retry: %s", first_line(error))
            continue
        if not held:
            drain.start(f"lease lost: another run holds it, or its table was deleted (run {run_id})")


def _heartbeat(destination: Destination, counts: OutcomeCounts, *, draining: bool) -> dict[str, Any]:
    return {
        **destination.heartbeat,
        "event": "heartbeat",
        "at": utc_now(),
        "state": "DRAINING" if draining else "RUNNING",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "ok": counts.ok,
        "failed": counts.failures,
        "skipped": counts.skipped,
        "calls": counts.calls,
        "throttled": counts.throttled,
        "cost_usd": None if counts.cost_usd is None else f"{counts.cost_usd:f}",
    }

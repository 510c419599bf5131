"""The remaining budget of a batch run, and its counts at the end: sums over its rounds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch.state import BatchRun, Prepared
from imagebeam.transforms.batch_shards import Shard
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.collect_batch import Collected, read_collected
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts, add_costs
from imagebeam.transforms.engine.settings import Caps
from imagebeam.transforms.finish_run import finish, recount

#: Prefixes of transient failures, which another round retries.
TRANSIENT = ("UNAVAILABLE", "IMAGE_ERROR/FORBIDDEN")


def remaining_caps(run: BatchRun, rounds: int) -> Caps | None:
    """Return what remains of the caps after the first rounds; None without caps.

    A row without an output line may have been billed, so it counts with its maximum cost.
    """
    caps = run.run.engine.caps
    if caps is None:
        return None
    collected = _load_collected(run, rounds)
    calls, usd = caps.max_calls, caps.max_cost_usd
    if calls is not None:
        calls -= sum(each.units for each in collected)
    if usd is not None:
        # A cap in USD needs a price, so every cost is known.
        usd -= sum(((each.cost_usd or 0) + each.missing * caps.max_call_usd for each in collected), Decimal(0))
    return dataclasses.replace(caps, max_calls=calls, max_cost_usd=usd)


def allowed_units(run: BatchRun, number: int) -> int | None:
    """Return the number of units that the caps still allow in a round; None without caps."""
    caps = remaining_caps(run, number - 1)
    if caps is None:
        return None
    limits = [] if caps.max_calls is None else [caps.max_calls]
    if caps.max_cost_usd is not None:
        limits.append(int(caps.max_cost_usd / caps.max_call_usd))
    return max(0, min(limits))


def load_shards(run: BatchRun, rounds: int) -> Iterator[Shard]:
    """Read the shards of the first rounds that are prepared."""
    for number in range(1, rounds + 1):
        prepared = batch_state.load_prepared(run, number)
        yield from prepared.shards if prepared else ()


def finish_batch(
    run: BatchRun, rounds: int, bq: BigQueryClient, *, canceled: bool, all_jobs_failed: str, budget_exhausted: bool
) -> Mapping[str, Any]:
    """Add up all rounds, reconcile the counts and end the run.

    Args:
        run: The run.
        rounds: Its rounds.
        bq: BigQuery client.
        canceled: The run was canceled.
        all_jobs_failed: Error that all jobs have in common; empty if they do not.
        budget_exhausted: The caps left nothing for the fallback lane.

    Returns:
        The run's summary.
    """
    prepared = [batch_state.load_prepared(run, number) or Prepared(SourceCounts()) for number in range(1, rounds + 1)]
    remainder = batch_state.load_remainder(run) or OutcomeCounts()
    collected = _load_collected(run, rounds)
    failed = _failures(run, prepared, collected, remainder, bq)
    first = prepared[0]
    budget_exhausted |= any(shard.skipped for each in prepared for shard in each.shards)
    stops = (
        (canceled, "interrupted: the batch run was canceled"),
        (all_jobs_failed, f"systemic: every batch job failed: {all_jobs_failed}"),
        (budget_exhausted, "budget: the cap does not allow all units"),
    )
    counted = OutcomeCounts(
        read=first.source.remaining,
        ok=remainder.ok + sum(each.ok for each in collected),
        failed=failed,
        skipped=sum(shard.skipped for shard in first.shards),
        calls=remainder.calls + sum(each.units for each in collected),
        throttled=remainder.throttled,
        usage=sum((each.usage for each in collected), remainder.usage),
        cost_usd=add_costs(remainder.cost_usd, *(each.cost_usd for each in collected)),
        stop=next((reason for applies, reason in stops if applies), remainder.stop),
    )
    return finish(run.run, first.source, counted)


def _failures(
    run: BatchRun,
    prepared: list[Prepared],
    collected: list[Collected],
    remainder: OutcomeCounts,
    bq: BigQueryClient,
) -> dict[str, int]:
    """Count the failures of all rounds, each unit once."""
    failed = Counter[str]()
    vanished = 0
    for number, each in enumerate(prepared, 1):
        # A round processes the transient failures of the round before; units whose row left the source keep theirs.
        vanished += max(0, _remove_transient(failed) - sum(shard.read - shard.skipped for shard in each.shards))
        in_round = [part for part in collected if part.round == number]
        for failures in (
            *(shard.problems for shard in each.shards),
            *(part.failed for part in in_round),
            *(part.again for part in in_round),
        ):
            failed.update(failures)
    if remainder.read:
        vanished += _remove_transient(failed) - remainder.read + remainder.skipped
        failed.update(remainder.failed)
    if vanished:
        _remove_transient(failed)
        recorded = recount(bq, run.run, OutcomeCounts())
        failed.update({key: units for key, units in recorded.failed.items() if key.startswith(TRANSIENT)})
    return dict(failed)


def _remove_transient(failed: Counter[str]) -> int:
    """Remove the transient failures, and return the number of their units."""
    return sum(failed.pop(key) for key in list(failed) if key.startswith(TRANSIENT))


def _load_collected(run: BatchRun, rounds: int) -> list[Collected]:
    """Read the outcomes of the collected shards of the first rounds."""
    shards = load_shards(run, rounds)
    return [collected for shard in shards if (collected := read_collected(shard)) is not None]

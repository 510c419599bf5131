"""What a batch run may still buy, and the books at its end: the sums over its rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Literal

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch.state import BatchRun, Prepared, Rest
from imagebeam.transforms.batch_shards import Shard
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.collect_batch import Collected, read_collected
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts
from imagebeam.transforms.core.records import Usage
from imagebeam.transforms.engine.settings import Caps
from imagebeam.transforms.finish_run import finish, recount

#: Failures that pass: what another round may answer.
PASSING = ("UNAVAILABLE", "IMAGE_ERROR/FORBIDDEN")
#: The caps of a run that may buy nothing more.
NOTHING_LEFT: Final = "nothing"


def caps_left(run: BatchRun, rounds: int) -> Caps | Literal["nothing"] | None:
    """What the caps still allow after so many rounds; None without caps.

    A row that the service did not give back may have been billed: it counts with its worst case.
    """
    caps = run.run.engine.caps
    if caps is None:
        return None
    before = _collected(run, rounds)
    calls, usd = caps.max_calls, caps.max_cost_usd
    if calls is not None:
        calls -= sum(found.units for found in before)
    if usd is not None:
        usd -= sum((found.cost_usd + found.missing * caps.max_call_usd for found in before), Decimal(0))
    if (calls is not None and calls <= 0) or (usd is not None and usd < caps.max_call_usd):
        return NOTHING_LEFT
    return dataclasses.replace(caps, max_calls=calls, max_cost_usd=usd)


def allowed(run: BatchRun, number: int) -> int | None:
    """Units that the caps still allow in a round; None without caps."""
    caps = caps_left(run, number - 1)
    if caps is None:
        return None
    if caps == NOTHING_LEFT:
        return 0
    limits = [] if caps.max_calls is None else [caps.max_calls]
    if caps.max_cost_usd is not None:
        limits.append(int(caps.max_cost_usd / caps.max_call_usd))
    return min(limits)


def shards(run: BatchRun, rounds: int) -> Iterator[Shard]:
    """The shards of the first rounds, as far as they are prepared."""
    for number in range(1, rounds + 1):
        prepared = batch_state.prepared(run, number)
        yield from prepared.shards if prepared else ()


def _collected(run: BatchRun, rounds: int) -> list[Collected]:
    """What was collected in the first rounds."""
    found = (read_collected(shard) for shard in shards(run, rounds))
    return [collected for collected in found if collected is not None]


def finish_batch(
    run: BatchRun, rounds: int, bq: BigQueryClient, *, cancelled: bool, failed: str, poor: bool
) -> Mapping[str, Any]:
    """Adds up all rounds, balances the books and ends the run.

    Args:
        run: The run.
        rounds: Its rounds.
        bq: BigQuery client.
        cancelled: Somebody cancelled it.
        failed: Why another round would help nothing; empty if it might.
        poor: Nothing was left of its caps for what no job answered.
    """
    each = [batch_state.prepared(run, number) or Prepared(SourceCounts()) for number in range(1, rounds + 1)]
    rest = batch_state.rest_of(run) or Rest()
    found = _collected(run, rounds)
    final: dict[str, int] = {}
    waiting: dict[str, int] = {}
    lost = 0
    for number, prepared in enumerate(each, 1):
        # What waited after one round is what the next one asks about; a unit whose row is gone goes on waiting.
        lost += max(0, sum(waiting.values()) - sum(shard.read - shard.skipped for shard in prepared.shards))
        waiting = {}
        for shard in prepared.shards:
            _sort(shard.problems, final, waiting)
        for part in (part for part in found if part.round == number):
            _sort(part.failed, final, waiting)
            _sort(part.again, final, waiting)
    if rest.read:
        lost += sum(waiting.values()) - rest.read + rest.skipped
        waiting = {}
        _sort(rest.failed, final, waiting)
    if lost:
        recorded = recount(bq, run.run, OutcomeCounts())
        waiting = {key: count for key, count in recorded.failed.items() if key.startswith(PASSING)}
    _sort(waiting, final, final)
    first = each[0]
    skipped = sum(shard.skipped for shard in first.shards)
    stop = rest.stop
    if cancelled:
        stop = "interrupted: the batch run was cancelled"
    elif failed:
        stop = f"systemic: every batch job failed: {failed}"
    elif poor or any(shard.skipped for prepared in each for shard in prepared.shards):
        stop = "budget: the cap does not allow all units"
    counted = OutcomeCounts(
        read=first.source.remaining,
        ok=rest.ok + sum(part.ok for part in found),
        failed=final,
        skipped=skipped,
        calls=rest.calls + sum(part.units for part in found),
        usage=sum((part.usage for part in found), Usage()),
        cost_usd=sum((part.cost_usd for part in found), Decimal(0)),
        stop=stop,
    )
    return finish(run.run, first.source, counted)


def _sort(failures: Mapping[str, int], final: dict[str, int], waiting: dict[str, int]) -> None:
    """Adds failures to those that are final, or to those that another round may mend."""
    for key, count in failures.items():
        into = waiting if key.startswith(PASSING) else final
        into[key] = into.get(key, 0) + count

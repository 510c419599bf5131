"""What an engine needs to know: how to ask, what may be spent, where outcomes are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.engine.unit_caller import Asking


@dataclasses.dataclass(frozen=True, slots=True)
class Destination:
    """Where outcomes are kept.

    Attributes:
        outcomes: The table.
        lease: The lease that the engine keeps alive; None when nobody took one.
        claims: Directory of the run's claims, local or ``gs://``; None to do without.
        runs: The table of runs, for heartbeats; None to do without.
        heartbeat: What every heartbeat of the run says.
        vectors: The table of the vectors, if embeddings are asked for.
    """

    outcomes: TableName
    lease: TableName | None = None
    claims: str | None = None
    runs: TableName | None = None
    heartbeat: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vectors: TableName | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Caps:
    """What a run may spend, over all its processes.

    Attributes:
        directory: The run's directory, where the notes of the budget are.
        max_cost_usd: At most so many dollars at list price; None for no cap.
        max_calls: At most so many calls; None for no cap.
        processes: Worker processes that share the caps.
        worst_usd: What one call usually costs at most, see :func:`~worst_case.check_cap`.
    """

    directory: str
    max_cost_usd: Decimal | None
    max_calls: int | None
    processes: int
    worst_usd: Decimal


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine needs to know; picklable, the same for every bundle of a run.

    Attributes:
        run_id: The machine-made id of the run.
        asking: How to ask, see :class:`Asking`.
        in_flight: Calls under way at once in one process, 1 to 4096.
        max_per_s: Hard ceiling of this process in requests per second; None for none.
        max_tokens_per_s: The same in tokens per second, those of the answer included.
        max_failure_percent: The process drains when more of its units have failed, once it has seen
            :data:`FAILURES_AFTER` of them; None for never.
        caps: What the run may spend; None for no cap.
        destination: Where outcomes are kept; None to hand them on as elements only.
    """

    run_id: str
    asking: Asking
    in_flight: int = 256
    max_per_s: float | None = None
    max_tokens_per_s: float | None = None
    max_failure_percent: float | None = None
    caps: Caps | None = None
    destination: Destination | None = None

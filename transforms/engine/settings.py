"""What an engine needs to know: how to ask, what may be spent, where outcomes are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.gemini.task_kinds import AnyTask
from imagebeam.transforms.tasks.model_profiles import ModelProfile


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
        max_call_usd: What one call usually costs at most, see :func:`~worst_case.check_cap`.
    """

    directory: str
    max_cost_usd: Decimal | None
    max_calls: int | None
    processes: int
    max_call_usd: Decimal


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine needs to know; picklable, the same for every bundle of a run.

    Attributes:
        run_id: The machine-made id of the run.
        asking: How to ask, see :class:`CallSettings`.
        in_flight: Calls under way at once in one process, 1 to 4096.
        max_per_s: Hard ceiling of this process in requests per second; None for none.
        max_tokens_per_s: The same in tokens per second, those of the answer included.
        max_failure_percent: The process drains when more of its units have failed, once it has seen
            :data:`FAILURES_AFTER` of them; None for never.
        caps: What the run may spend; None for no cap.
        destination: Where outcomes are kept; None to hand them on as elements only.
    """

    run_id: str
    call_settings: CallSettings
    in_flight: int = 256
    max_per_s: float | None = None
    max_tokens_per_s: float | None = None
    max_failure_percent: float | None = None
    caps: Caps | None = None
    destination: Destination | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class CallSettings:
    """How to ask: the same for every unit of a run; picklable.

    Attributes:
        project: Project that pays for the calls.
        location: Location of the model.
        task: What is asked.
        profile: The task's model.
        lane: ``online`` or ``flex``.
        transport: ``uri`` (the service reads the image) or ``inline`` (the image travels in the request).
        call_timeout_s: Seconds until one call is given up.
        unit_deadline_s: Seconds from a unit's first call until it is UNAVAILABLE; time spent refused for
            quota does not count.
        attempts: Calls per unit at most; refused ones do not count.
        wait_multiplier_s: Longest wait before the second attempt, in seconds; doubled for each further one.
    """

    project: str
    location: str
    task: AnyTask
    profile: ModelProfile
    lane: Lane = Lane.ONLINE
    transport: Transport = Transport.URI
    call_timeout_s: float = 120.0
    unit_deadline_s: float = 600.0
    attempts: int = 6
    wait_multiplier_s: float = 1.0

    def columns(self, run_id: str) -> dict[str, str]:
        """What every outcome of the run says of how it was asked."""
        return {
            "task": self.task.name,
            "version": self.task.version,
            "model": self.task.model,
            "lane": self.lane,
            "run_id": run_id,
        }

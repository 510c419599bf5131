"""Settings of the engine: calls, caps, and where outcomes are recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.gemini.task_kinds import AnyTask
from imagebeam.transforms.tasks.model_profiles import ModelProfile

#: Defaults, shared with the command line.
IN_FLIGHT: Final = 256
CALL_TIMEOUT_S: Final = 120.0
UNIT_DEADLINE_S: Final = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Destination:
    """Where outcomes are recorded.

    Attributes:
        outcomes: The table ``outcomes``.
        lease: The lease that the engine extends; None without one.
        claims: Directory of the run's claims on unit batches, local or ``gs://``; None for no claims.
        runs: The table ``runs``, for heartbeats; None for no heartbeats.
        heartbeat: Columns of every heartbeat of the run.
        vectors: The table of the vectors, for an embedding task.
    """

    outcomes: TableName
    lease: TableName | None = None
    claims: str | None = None
    runs: TableName | None = None
    heartbeat: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vectors: TableName | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Caps:
    """Caps of a run, over all its processes.

    Attributes:
        directory: The run's directory, which holds the budget shares; local or ``gs://``.
        max_cost_usd: Maximum cost in US dollars, at list price; None for no cap.
        max_calls: Maximum number of calls; None for no cap.
        processes: Worker processes that share the caps.
        max_call_usd: Maximum cost of a typical call, see :func:`~max_cost.check_cap`.
    """

    directory: str
    max_cost_usd: Decimal | None
    max_calls: int | None
    processes: int
    max_call_usd: Decimal


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of an engine; picklable, the same for every bundle of a run.

    Attributes:
        run_id: Id of the run.
        call_settings: Settings of the calls.
        in_flight: Maximum calls in flight per process, 1 to 4096.
        max_per_s: Rate limit of one process in requests per second; None for none.
        max_tokens_per_s: The same in tokens per second, those of the answer included.
        max_failure_percent: The process drains if a larger percentage of its units failed, checked after
            :data:`~drain.FAILURES_AFTER` units; None for never.
        caps: Caps of the run; None for none.
        destination: Where outcomes are recorded; None to emit them as elements only.
    """

    run_id: str
    call_settings: CallSettings
    in_flight: int = IN_FLIGHT
    max_per_s: float | None = None
    max_tokens_per_s: float | None = None
    max_failure_percent: float | None = None
    caps: Caps | None = None
    destination: Destination | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class CallSettings:
    """Settings of the calls; picklable, the same for every unit of a run.

    Attributes:
        project: Project that is billed for the calls.
        location: Location of the model.
        task: The task.
        profile: The task's model.
        lane: Lane of the calls.
        transport: How images are sent to the model, URI or inline.
        call_timeout_s: Timeout of one call, in seconds.
        unit_deadline_s: Seconds from a unit's first call until it is UNAVAILABLE; waiting for quota does not count.
        attempts: Maximum calls per unit; those rejected for quota do not count.
        wait_multiplier_s: Longest wait before the second attempt, in seconds; doubled for each further one.
    """

    project: str
    location: str
    task: AnyTask
    profile: ModelProfile
    lane: Lane = Lane.ONLINE
    transport: Transport = Transport.URI
    call_timeout_s: float = CALL_TIMEOUT_S
    unit_deadline_s: float = UNIT_DEADLINE_S
    attempts: int = 6
    wait_multiplier_s: float = 1.0

    def columns(self, run_id: str) -> dict[str, str]:
        """Return the columns that are the same in every outcome of a run."""
        return {
            "task": self.task.name,
            "version": self.task.version,
            "model": self.task.model,
            "lane": self.lane,
            "run_id": run_id,
        }

"""Settings of the engine: calls, caps, and where outcomes are recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName, new_run_id
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.gemini.task_kinds import AnyTask
from imagebeam.transforms.tasks.catalog import load_models_file
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Models

#: Defaults, shared with the command line.
IN_FLIGHT: Final = 256
CALL_TIMEOUT_S: Final = 120.0
UNIT_DEADLINE_S: Final = 600.0
ATTEMPTS: Final = 6
WAIT_S: Final = 1.0
#: Calls of the flex lane take longer, and Google recommends longer waits before retries (Google, "Flex PayGo").
FLEX_ATTEMPTS, FLEX_WAIT_S, FLEX_TIMEOUT_S, FLEX_DEADLINE_S = 4, 10.0, 900.0, 3600.0


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

    @classmethod
    def for_task(
        cls,
        task: AnyTask,
        *,
        project: str,
        location: str = "global",
        lane: Lane = Lane.ONLINE,
        transport: Transport = Transport.URI,
        in_flight: int = IN_FLIGHT,
        max_per_s: float | None = None,
        models: Models | None = None,
    ) -> EngineSettings:
        """Return settings for a pipeline with its own source and sink: outcomes are elements, and nothing is recorded.

        Args:
            task: The task, see :func:`~imagebeam.transforms.tasks.catalog.load_task`.
            project: Project that is billed for the calls.
            location: Location of the model.
            lane: Online or flex.
            transport: How images are sent, URI or inline; always inline if the task crops or downscales them.
            in_flight: Maximum calls in flight per worker process, 1 to 4096.
            max_per_s: Rate limit of one worker process in requests per second; None for none.
            models: Known models; by default the shipped ones.

        Raises:
            UserError: The model is unknown, or does not support the task in this lane and location.
        """
        if lane not in (Lane.ONLINE, Lane.FLEX):
            raise UserError(f"CallModel calls the model in lane online or flex, not {lane}")
        profile = (models or load_models_file()).resolve(task)
        profile.check(location, lane, task)
        inline = transport is not Transport.URI or task.image.changes_images
        call_settings = CallSettings(
            project, location, task, profile, lane, Transport.INLINE if inline else Transport.URI
        )
        if lane is Lane.FLEX:
            call_settings = call_settings.with_flex_timeouts()
        return cls(new_run_id(), call_settings, in_flight, max_per_s)


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
        endpoint: Resource name of the endpoint that serves a tuned model; empty: calls are made to the task's model.
        job_model: Resource name of the model in batch jobs; empty: the task's model.
    """

    project: str
    location: str
    task: AnyTask
    profile: ModelProfile
    lane: Lane = Lane.ONLINE
    transport: Transport = Transport.URI
    call_timeout_s: float = CALL_TIMEOUT_S
    unit_deadline_s: float = UNIT_DEADLINE_S
    attempts: int = ATTEMPTS
    wait_multiplier_s: float = WAIT_S
    endpoint: str = ""
    job_model: str = ""

    def with_flex_timeouts(self) -> CallSettings:
        """Return the settings with the timeouts and waits of the flex lane, which also suit the online lane."""
        return dataclasses.replace(
            self,
            call_timeout_s=max(self.call_timeout_s, FLEX_TIMEOUT_S),
            unit_deadline_s=max(self.unit_deadline_s, FLEX_DEADLINE_S),
            attempts=FLEX_ATTEMPTS,
            wait_multiplier_s=FLEX_WAIT_S,
        )

    def columns(self, run_id: str) -> dict[str, str]:
        """Return the columns that are the same in every outcome of a run."""
        return {
            "task": self.task.name,
            "version": self.task.version,
            "model": self.task.model,
            "lane": self.lane,
            "run_id": run_id,
        }

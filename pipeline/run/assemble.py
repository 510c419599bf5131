"""The settings of a run, from what a person asked for: one value that every worker gets."""

from __future__ import annotations

import dataclasses

import orjson

from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.batch_shards import BatchSettings
from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.engine.max_cost import check_cap
from imagebeam.transforms.engine.settings import CallSettings, Caps, Destination, EngineSettings
from imagebeam.transforms.gemini.batch_requests import ShardLimits
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import run_event
from imagebeam.transforms.sql import sources
from imagebeam.transforms.sql.embedding_tables import embedding_table
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.tasks.model_profiles import ModelProfile, estimate_usage
from imagebeam.transforms.tasks.task import Task

ATTEMPTS, WAIT_S = 6, 1.0
#: Flex is slower and is to be asked again gently (Google, "Flex PayGo").
FLEX_ATTEMPTS, FLEX_WAIT_S, FLEX_TIMEOUT_S, FLEX_DEADLINE_S = 4, 10.0, 900.0, 3600.0


def build_run_settings(
    settings: ClassifySettings,
    task: Task,
    profile: ModelProfile,
    source: sources.Source,
    filters: Filters,
    outcomes: TableName,
    location: str,
) -> RunSettings:
    """The settings that every step of the run gets."""
    directory = storage.join(settings.work_dir, "runs", settings.run_id)
    timeout_s, deadline_s = settings.call_timeout_s, settings.unit_deadline_s
    if settings.lane == Lane.FLEX:
        timeout_s = timeout_s if "call_timeout_s" in settings.given else FLEX_TIMEOUT_S
        deadline_s = deadline_s if "unit_deadline_s" in settings.given else FLEX_DEADLINE_S
    call_settings = CallSettings(
        project=settings.project,
        location=settings.location,
        task=task,
        profile=profile,
        lane=settings.lane,
        transport=Transport.INLINE
        if task.image.changes_images or settings.transport == Transport.INLINE
        else Transport.URI,
        call_timeout_s=min(timeout_s, deadline_s),
        unit_deadline_s=deadline_s,
        attempts=FLEX_ATTEMPTS if settings.lane == Lane.FLEX else ATTEMPTS,
        wait_multiplier_s=FLEX_WAIT_S if settings.lane == Lane.FLEX else WAIT_S,
    )
    dimension = task.vector_dimension
    destination = Destination(
        outcomes=outcomes,
        lease=lease.lease_table(outcomes, task.name),
        claims=storage.join(directory, "groups"),
        vectors=None if dimension is None else embedding_table(outcomes, task.model, dimension),
    )
    # A fixed quota need not be found: its published number is the ceiling until a person knows a better one.
    max_rpm = settings.max_rpm or profile.fixed_rpm(settings.location)
    engine = EngineSettings(
        run_id=settings.run_id,
        call_settings=call_settings,
        in_flight=settings.in_flight,
        max_per_s=ceiling("--max_rpm", max_rpm, settings.processes, at_least=1),
        max_tokens_per_s=ceiling(
            "--max_tpm", settings.max_tpm, settings.processes, at_least=call_tokens(profile, task)
        ),
        max_failure_percent=settings.max_failure_percent,
        caps=build_caps(settings, task, profile, directory),
        destination=destination,
    )
    run = RunSettings(
        engine=engine,
        source=source,
        filters=filters,
        selection=settings.selection,
        keep_columns=tuple(settings.keep_columns),
        outcomes=outcomes,
        location=location,
        directory=directory,
        unit_batch_size=settings.unit_batch_size,
        maximum_bytes_billed=settings.maximum_bytes_billed,
        who=lease.build_holder(settings.run_id).who,
        filters_json=orjson.dumps(dict(settings.given)).decode(),
        source_text=settings.source or "query",
    )
    destination = dataclasses.replace(destination, runs=run.runs, heartbeat=run_event(run))
    return dataclasses.replace(run, engine=dataclasses.replace(engine, destination=destination))


def patient(call_settings: CallSettings) -> CallSettings:
    """The same with the patience that the flex lane needs; of no harm in the online lane."""
    return dataclasses.replace(
        call_settings,
        call_timeout_s=max(call_settings.call_timeout_s, FLEX_TIMEOUT_S),
        unit_deadline_s=max(call_settings.unit_deadline_s, FLEX_DEADLINE_S),
        attempts=FLEX_ATTEMPTS,
        wait_multiplier_s=FLEX_WAIT_S,
    )


def build_batch_settings(settings: ClassifySettings) -> BatchSettings:
    """How a run goes through batch jobs."""
    return BatchSettings(
        source=settings.batch_source,
        destination=settings.batch_destination,
        limits=ShardLimits(settings.batch_lines, settings.batch_bytes),
        rounds=settings.batch_rounds,
        deadline_s=settings.batch_deadline_s,
        fallback=settings.batch_fallback,
        grace_s=settings.batch_grace_s,
    )


def build_caps(settings: ClassifySettings, task: Task, profile: ModelProfile, directory: str) -> Caps | None:
    """What the run may spend.

    Raises:
        UserError: A cap cannot be kept, or lets nothing be done.
    """
    if settings.max_cost_usd is None and settings.max_calls is None:
        return None
    worst = check_cap(
        profile,
        task,
        settings.lane,
        max_cost_usd=settings.max_cost_usd,
        max_calls=settings.max_calls,
        processes=settings.processes,
    )
    return Caps(directory, settings.max_cost_usd, settings.max_calls, settings.processes, worst)


def ceiling(flag: str, per_minute: int | None, workers: int, *, at_least: int) -> float | None:
    """The hard ceiling of one worker process, per second.

    Raises:
        UserError: It does not even allow one call a minute per process.
    """
    if per_minute is None:
        return None
    if per_minute < workers * at_least:
        raise UserError(
            f"{flag}={per_minute} is less than one call a minute ({at_least:,}) for each of {workers} worker "
            f"processes: give {workers * at_least:,} or more, or fewer workers"
        )
    return per_minute / 60 / workers


def call_tokens(profile: ModelProfile, task: Task) -> int:
    """Tokens that one call takes about."""
    return estimate_usage(profile, task, task.max_images).total_tokens

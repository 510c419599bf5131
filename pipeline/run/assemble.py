"""Build the settings that every step of a run gets."""

from __future__ import annotations

import dataclasses

import orjson

from imagebeam.pipeline.run.resolved_run import ResolvedRun
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.batch_shards import BatchSettings
from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.engine.max_cost import check_cap
from imagebeam.transforms.engine.settings import (
    ATTEMPTS,
    FLEX_ATTEMPTS,
    FLEX_DEADLINE_S,
    FLEX_TIMEOUT_S,
    FLEX_WAIT_S,
    WAIT_S,
    CallSettings,
    Caps,
    Destination,
    EngineSettings,
)
from imagebeam.transforms.gemini.batch_requests import ShardLimits
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import run_event
from imagebeam.transforms.sql.embedding_tables import embedding_table
from imagebeam.transforms.tasks.costs import estimate_usage
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task


def build_run_settings(resolved: ResolvedRun) -> RunSettings:
    """Build the settings that every step of the run gets.

    Raises:
        UserError: A cap or a rate limit is too low for a single call.
    """
    settings, task, outcomes = resolved.settings, resolved.task, resolved.outcomes
    directory = storage.join(settings.work_dir, "runs", settings.run_id)
    dimension = task.vector_dimension
    destination = Destination(
        outcomes=outcomes,
        lease=lease.lease_table(outcomes, task.name),
        claims=storage.join(directory, "groups"),
        vectors=None if dimension is None else embedding_table(outcomes, task.model, dimension),
    )
    # A published quota that is the same for all projects is used as the limit.
    max_rpm = settings.max_rpm or resolved.profile.fixed_rpm(_model_location(resolved))
    min_tpm = call_tokens(resolved.profile, task)
    engine = EngineSettings(
        run_id=settings.run_id,
        call_settings=_build_call_settings(resolved),
        in_flight=settings.in_flight,
        max_per_s=rate_per_process("--max_rpm", max_rpm, settings.processes, at_least=1),
        max_tokens_per_s=rate_per_process("--max_tpm", settings.max_tpm, settings.processes, at_least=min_tpm),
        max_failure_percent=settings.max_failure_percent,
        caps=_build_caps(resolved, directory),
        destination=destination,
    )
    run = RunSettings(
        engine=engine,
        source=resolved.source,
        filters=resolved.filters,
        selection=settings.selection,
        keep_columns=tuple(settings.keep_columns),
        outcomes=outcomes,
        location=resolved.location,
        directory=directory,
        unit_batch_size=settings.unit_batch_size,
        maximum_bytes_billed=settings.maximum_bytes_billed,
        who=lease.build_holder(settings.run_id).who,
        filters_json=orjson.dumps(dict(settings.given)).decode(),
        source_text=settings.source or "query",
    )
    destination = dataclasses.replace(destination, runs=run.runs, heartbeat=run_event(run))
    return dataclasses.replace(run, engine=dataclasses.replace(engine, destination=destination))


def _build_call_settings(resolved: ResolvedRun) -> CallSettings:
    settings, lane = resolved.settings, resolved.settings.lane
    timeout_s, deadline_s = settings.call_timeout_s, settings.unit_deadline_s
    if lane == Lane.FLEX:
        timeout_s = timeout_s if "call_timeout_s" in settings.given else FLEX_TIMEOUT_S
        deadline_s = deadline_s if "unit_deadline_s" in settings.given else FLEX_DEADLINE_S
    inline = lane != Lane.SQL and resolved.needs_inline
    return CallSettings(
        project=settings.project,
        location=_model_location(resolved),
        task=resolved.task,
        profile=resolved.profile,
        lane=lane,
        transport=Transport.INLINE if inline else Transport.URI,
        call_timeout_s=min(timeout_s, deadline_s),
        unit_deadline_s=deadline_s,
        attempts=FLEX_ATTEMPTS if lane == Lane.FLEX else ATTEMPTS,
        wait_multiplier_s=FLEX_WAIT_S if lane == Lane.FLEX else WAIT_S,
    )


def _model_location(resolved: ResolvedRun) -> str:
    """Return the location of the model; for the SQL lane, where BigQuery chooses it, one that the model has."""
    settings = resolved.settings
    return resolved.profile.locations[0] if settings.lane == Lane.SQL else settings.location


def with_model_facts(run: RunSettings, resolved: ResolvedRun, transport: Transport) -> RunSettings:
    """Return the run with what only the service knows: how images reach the model, and where a tuned model is.

    Args:
        run: The run.
        resolved: The run, resolved from its settings.
        transport: How images reach the model.

    Raises:
        UserError: The tuned model or endpoint cannot be used in the run's lane.
        SystemicError: Vertex AI cannot be used.
    """
    call_settings = dataclasses.replace(run.engine.call_settings, transport=transport)
    if resolved.model_name.is_tuned:
        batch = resolved.settings.lane == Lane.BATCH
        call_settings = dataclasses.replace(
            call_settings,
            endpoint=resolved.call_model if resolved.makes_calls else "",
            job_model=resolved.job_model if batch else "",
        )
    return dataclasses.replace(run, engine=dataclasses.replace(run.engine, call_settings=call_settings))


def build_batch_settings(settings: ClassifySettings) -> BatchSettings:
    """Build the settings of the batch lane."""
    return BatchSettings(
        source=settings.batch_source,
        destination=settings.batch_destination,
        limits=ShardLimits(settings.batch_lines, settings.batch_bytes),
        rounds=settings.batch_rounds,
        deadline_s=settings.batch_deadline_s,
        fallback=settings.batch_fallback,
        grace_s=settings.batch_grace_s,
        dataset=settings.batch_dataset or "",
        # Checked before the run: it is in the region of the model.
        dataset_location=settings.location if settings.batch_dataset else "",
        output_table=settings.batch_output_table or "",
        display_name=settings.display_name,
        check_types=settings.batch_check_types,
    )


def _build_caps(resolved: ResolvedRun, directory: str) -> Caps | None:
    settings = resolved.settings
    if settings.max_cost_usd is None and settings.max_calls is None:
        return None
    max_call_usd = check_cap(
        resolved.profile,
        resolved.task,
        Lane.ONLINE if settings.lane == Lane.SQL else settings.lane,
        max_cost_usd=settings.max_cost_usd,
        max_calls=settings.max_calls,
        processes=settings.processes,
    )
    return Caps(directory, settings.max_cost_usd, settings.max_calls, settings.processes, max_call_usd)


def rate_per_process(flag: str, per_minute: int | None, processes: int, *, at_least: int) -> float | None:
    """Return the share of a rate limit that one worker process gets, per second.

    Args:
        flag: The flag that sets the limit, for the message.
        per_minute: The limit; None for no limit.
        processes: Worker processes that share it.
        at_least: What one call takes of it.

    Raises:
        UserError: The share is less than one call per minute.
    """
    if per_minute is None:
        return None
    if per_minute < processes * at_least:
        raise UserError(
            f"{flag}={per_minute} is less than one call per minute ({at_least:,}) for each of {processes} worker "
            f"processes: set at least {processes * at_least:,}, or use fewer workers"
        )
    return per_minute / 60 / processes


def call_tokens(profile: ModelProfile, task: Task) -> int:
    """Return the estimated number of tokens of one call."""
    return estimate_usage(profile, task, task.max_images).total_tokens

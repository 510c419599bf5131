"""``imagebeam plan``: what a run would do, take and cost in each lane. Nothing is called but for ``--probe``."""

from __future__ import annotations

import asyncio
import datetime
import json
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from imagebeam.pipeline.plan import image_sample, probe
from imagebeam.pipeline.plan import text as plan_text
from imagebeam.pipeline.plan.settings import PlanSettings
from imagebeam.pipeline.plan.text import Plan, Probed
from imagebeam.pipeline.run import batch_checks, checks, cost_estimate, model_probe
from imagebeam.pipeline.run.assemble import build_run_settings
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import ReconciliationError, UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.engine import max_cost
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.tasks import catalog, lane_comparison
from imagebeam.transforms.tasks.forecast import MIN_MEASURED_UNITS, Forecast, Forecaster, History
from imagebeam.transforms.tasks.lane_comparison import LanePlan
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Quota
from imagebeam.transforms.tasks.task import Task


def run(asked: PlanSettings) -> int:
    """Makes the plan and prints it.

    Returns:
        The exit code, 0.

    Raises:
        UserError: Something is wrong that a person can mend.
        SystemicError: A service cannot be used.
    """
    settings = asked.settings
    say = _quiet if settings.quiet or settings.as_json else _say
    plan = make_plan(asked, say)
    text = json.dumps(plan_text.document(plan), indent=2) if settings.as_json else "\n".join(plan_text.lines(plan))
    sys.stdout.write(text + "\n")
    return 0


def make_plan(asked: PlanSettings, say: cost_estimate.Say) -> Plan:
    """Finds out what is due and what it takes.

    Raises:
        UserError: Something is wrong that a person can mend.
        SystemicError: A service cannot be used.
    """
    settings = asked.settings
    models = catalog.load_models_file(settings.models_file)
    task = checks.resolve_task(settings, models)
    profile = models.resolve(task)
    if settings.lane != Lane.SQL:
        profile.check(settings.location, settings.lane, task)
    find_credentials()
    bq = BigQueryClient(settings.project)
    source, location = checks.resolve_source(settings, bq, say)
    filters = checks.build_filters(settings)
    filters.validate(source.columns, source=source.label)
    source.kept(settings.keep_columns)
    outcomes = TableName(*settings.results_dataset, "outcomes")
    make_dataset = checks.check_results(settings, bq, outcomes, location)
    like = settings
    if settings.lane == Lane.SQL:
        like = settings.replace(lane=Lane.ONLINE, location=profile.locations[0])
    like_run = build_run_settings(like, task, profile, source, filters, outcomes, location)
    planned = checks.plan(bq, like_run)
    past = before = cost_estimate.history(bq, like_run)
    probed = None
    if asked.probe and planned.callable_units:
        _check_probe(settings, profile, task, past, planned, asked.probe)
        if make_dataset:
            bq.create_dataset(outcomes.project, outcomes.dataset, make_dataset)
        probed = _probe(settings, asked.probe, bq, like_run, profile)
        planned = checks.plan(bq, like_run)
        past = cost_estimate.history(bq, like_run)
    due = checks.remaining_query(bq, like_run)
    looked = (
        image_sample.look(bq, like_run, due, asked.sample_images)
        if asked.sample_images and planned.callable_units
        else None
    )
    min_units = 1 if probed else MIN_MEASURED_UNITS
    expected = Forecaster(profile, task, past, min_units, looked).forecast_remaining(planned)
    lanes = []
    for lane in task.lanes:
        problem = lane_problem(settings, profile, task, lane, bq, like_run)
        lanes.append(lane_plan(settings, profile, task, lane, expected, location, problem))
    return Plan(
        command=asked.command,
        settings=settings,
        task=task,
        profile=profile,
        planned=planned,
        expected=expected,
        changed=cost_estimate.describe_change(
            profile, task, before, planned, settings.lane
        ),  # a probe uses the version
        bytes_scanned=bq.dry_run(due, location=like_run.location)[1],
        lanes=tuple(lanes),
        recommended=lane_comparison.recommend(lanes, expected.calls),
        prices_as_of=models.as_of,
        notes=(
            *task.ignored_warnings(),
            *_notes(asked, profile, expected, probed),
            *cost_estimate.why_nothing(bq, like_run, planned),
        ),
        probed=probed,
        looked=looked,
    )


def lane_plan(
    settings: ClassifySettings,
    profile: ModelProfile,
    task: Task,
    lane: Lane,
    expected: Forecast,
    location: str,
    problem: str | None = None,
) -> LanePlan:
    """What the run would come to in a lane.

    Args:
        settings: What a person said.
        profile: The model.
        task: What is asked.
        lane: The lane.
        expected: What asking takes.
        location: Where source and results are.
        problem: Why it cannot be taken, if it cannot.
    """
    usd = expected.usd(profile, lane)
    if problem:
        return LanePlan(lane, usd, problem=problem)
    images = max(1, round(expected.images / expected.units)) if expected.units else 1
    work = lane_comparison.Workload(expected.calls, expected.tokens, max_cost.request_bytes(profile, task, images))
    capacity = lane_comparison.Capacity(
        settings.in_flight,
        settings.processes,
        expected.latency_s,
        settings.batch_lines,
        settings.batch_bytes,
        settings.rows_per_job if isinstance(settings, EmbedSettings) else lane_comparison.Capacity().rows_per_job,
    )
    if lane == Lane.BATCH:
        return lane_comparison.plan_batch(usd, work, capacity)
    quota = lane_quota(settings, profile, lane, location)
    if lane == Lane.SQL:
        return lane_comparison.plan_sql(usd, work, quota, capacity)
    return lane_comparison.plan_calls(lane, usd, work, quota, capacity)


def lane_problem(
    settings: ClassifySettings, profile: ModelProfile, task: Task, lane: Lane, bq: BigQueryClient, run: RunSettings
) -> str | None:
    """Why a lane cannot be taken; None if it can. A batch run is asked what it would refuse itself."""
    changes = task.image.changes_images
    if lane == Lane.SQL:
        return "BigQuery reads images as they are, and these are cropped or downscaled" if changes else None
    if lane == Lane.BATCH and (changes or settings.transport == Transport.INLINE):
        return "a batch job reads images by their URIs, and these travel with the request"
    if lane == Lane.BATCH and settings.location in ("us", "eu"):
        return f"batch jobs are made at global or at a region, not at {settings.location}"
    try:
        profile.check(settings.location, lane, task)
        if lane == Lane.BATCH:
            batch_checks.check(settings, task, profile, run.outcomes, run.location)
            batch_checks.check_images(settings, task, bq, run.source, run.location, Transport.URI)
    except UserError as error:
        return str(error)
    return None


def lane_quota(settings: ClassifySettings, profile: ModelProfile, lane: Lane, location: str) -> Quota:
    """What is granted in a lane: what a person gave, else what is published, else what is assumed."""
    assumed = profile.assumed_quotas.get(lane, Quota())
    sql = lane == Lane.SQL
    place = settings.location
    if sql:
        place = "europe" if location.lower().startswith("eu") else "us"
    fixed = profile.fixed_rpm(place)
    given_rpm, given_tpm = (None, None) if sql else (settings.max_rpm, settings.max_tpm)
    source = ""
    if fixed is not None and given_rpm is None:
        source = f"the published one of {profile.name} here"
    elif (assumed.requests and given_rpm is None) or (assumed.tokens and given_tpm is None):
        source = assumed.source
    return Quota(given_rpm or fixed or assumed.requests, given_tpm or assumed.tokens, source)


def _notes(asked: PlanSettings, profile: ModelProfile, expected: Forecast, probed: Probed | None) -> tuple[str, ...]:
    settings, notes = asked.settings, []
    if asked.probe and probed is None:
        notes.append("nothing is due that has an image: nothing was probed")
    if warning := profile.retirement_warning(datetime.datetime.now(datetime.UTC).date()):
        notes.append(warning)
    usd = expected.usd(profile, settings.lane)
    if usd is None:
        notes.append(f"the price of {profile.name} in lane {settings.lane} is not known: give it with --models_file")
    elif settings.max_cost_usd is not None and usd > settings.max_cost_usd:
        share = int(expected.calls * settings.max_cost_usd / usd)
        notes.append(f"--max_cost_usd={settings.max_cost_usd:f} ends the run after about {share:,} calls")
    if settings.max_calls is not None and expected.calls > settings.max_calls:
        notes.append(f"--max_calls={settings.max_calls} ends the run before all is asked")
    if usd is not None and usd > cost_estimate.CONFIRM_ABOVE_USD:
        notes.append(f"above ${cost_estimate.CONFIRM_ABOVE_USD} the run asks for --yes or --max_cost_usd")
    return tuple(notes)


# -- the probe ---------------------------------------------------------------------------------------------------


def _check_probe(
    settings: ClassifySettings, profile: ModelProfile, task: Task, past: History, planned: SourceCounts, units: int
) -> None:
    """A probe is paid, so it asks as every paid command does.

    Raises:
        UserError: It is dear and nobody said yes, or there is nowhere to keep its books.
    """
    images = round(planned.images / planned.callable_units * units)
    usd = Forecaster(profile, task, past).forecast(units, images).usd(profile, Lane.ONLINE)
    cost_estimate.confirm(settings, usd or Decimal(0))
    storage.check_writable(settings.work_dir)


def _probe(
    settings: ClassifySettings, units: int, bq: BigQueryClient, like: RunSettings, profile: ModelProfile
) -> Probed:
    """Asks about some units, in the lane asked for if that is one of calls, else online."""
    lane = settings.lane if settings.lane in (Lane.ONLINE, Lane.FLEX) else Lane.ONLINE
    few = settings.replace(
        lane=lane,
        runner="FnApiRunner",
        direct_num_workers=1,
        dataflow_workers=None,
        max_calls=min(units, settings.max_calls or units),
    )
    profile.check(few.location, few.lane, like.task)
    transport = asyncio.run(model_probe.check_model(few, like.task, like.source, bq, like.location, due=units))
    few = few.replace(transport=transport)
    run = build_run_settings(few, like.task, profile, like.source, like.filters, like.outcomes, like.location)
    summary = probe.ask(bq, run, units)
    if summary["problems"]:
        raise ReconciliationError("the books of the probe do not balance: " + "; ".join(summary["problems"]))
    return _probed(summary)


def _probed(summary: Mapping[str, Any]) -> Probed:
    counted = summary["counted"]
    return Probed(
        run_id=summary["run_id"],
        calls=counted["calls"],
        ok=counted["ok"],
        failed=dict(counted["failed"]),
        usd=Decimal(summary["recorded"]["cost_usd"]),
        stop=summary["stop"],
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _quiet(_text: str) -> None:
    pass

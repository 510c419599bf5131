"""``imagebeam plan``: what a run would process, take and cost in each lane. Only ``--probe`` calls the model."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.planning import image_sample, probe
from imagebeam.pipeline.planning import text as plan_text
from imagebeam.pipeline.planning.settings import PlanSettings
from imagebeam.pipeline.planning.text import Plan
from imagebeam.pipeline.preflight import batch_checks
from imagebeam.pipeline.preflight.gate import check_run
from imagebeam.pipeline.preflight.runner import Command, Context
from imagebeam.pipeline.run import cost_estimate, model_probe
from imagebeam.pipeline.run.assemble import build_run_settings, with_model_facts
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.event_loop import run_coroutine
from imagebeam.pipeline.run.resolved_run import ReadyRun, ResolvedRun
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import ReconciliationError, UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.engine import max_cost
from imagebeam.transforms.tasks import lane_comparison
from imagebeam.transforms.tasks.costs import task_warnings
from imagebeam.transforms.tasks.forecast import MIN_MEASURED_UNITS, Forecast, Forecaster, History
from imagebeam.transforms.tasks.lane_comparison import LanePlan
from imagebeam.transforms.tasks.model_profiles import Quota


def run(plan_settings: PlanSettings) -> Plan:
    """Make the plan.

    Raises:
        UserError: The user must fix or confirm something.
        SystemicError: A service cannot be used.
    """
    settings = plan_settings.settings
    return make_plan(plan_settings, Console(quiet=settings.quiet, json=settings.as_json))


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan as the command does: text, or a JSON document."""
    if as_json:
        Console().print_json(plan_text.build_document(plan))
    else:
        Console().print(*plan_text.format_plan(plan))


def make_plan(plan_settings: PlanSettings, console: Console) -> Plan:
    """Count the remaining units and estimate what they take in each lane.

    Raises:
        UserError: The user must fix or confirm something.
        SystemicError: A service cannot be used.
    """
    ready = check_run(Context(ResolvedRun(plan_settings.settings), command=Command.PLAN), console)
    resolved, run = ready.resolved, ready.run
    history = first_history = cost_estimate.read_history(resolved.bq, run)
    probed = None
    if plan_settings.probe and ready.counts.callable_units:
        _check_probe(ready, history, plan_settings.probe)
        resolved.create_results_dataset()
        probed = _probe(resolved, plan_settings.probe)
        ready = dataclasses.replace(ready, counts=cost_estimate.count_units(resolved.bq, run))
        history = cost_estimate.read_history(resolved.bq, run)
    counts = ready.counts
    query = cost_estimate.remaining_query(resolved.bq, run)
    sample = None
    if plan_settings.sample_images and counts.callable_units:
        sample = image_sample.read_sample(resolved.bq, run, query, plan_settings.sample_images)
    min_units = 1 if probed else MIN_MEASURED_UNITS
    forecaster = Forecaster(resolved.profile, resolved.task, history, min_units, sample)
    expected = forecaster.forecast_remaining(counts)
    lanes = tuple(plan_lane(resolved, lane, expected) for lane in resolved.task.lanes)
    return Plan(
        command=plan_settings.command,
        ready=ready,
        expected=expected,
        changed=cost_estimate.describe_change(ready, first_history),  # the probe has used the new version
        bytes_scanned=resolved.bq.dry_run(query, location=run.location)[1],
        lanes=lanes,
        recommended=lane_comparison.recommend(lanes, expected.calls),
        notes=(*_notes(plan_settings, resolved, expected, probed), *cost_estimate.explain_no_units(ready)),
        probed=probed,
        sample=sample,
    )


def plan_lane(resolved: ResolvedRun, lane: Lane, expected: Forecast) -> LanePlan:
    """Estimate cost and time of the run in a lane, or explain why the lane is not possible."""
    settings, profile, task = resolved.settings, resolved.profile, resolved.task
    usd = expected.usd(profile, lane)
    if problem := find_problem(resolved, lane):
        return LanePlan(lane, usd, problem=problem)
    images = max(1, round(expected.images / expected.units)) if expected.units else 1
    work = lane_comparison.Workload(expected.calls, expected.tokens, max_cost.request_bytes(profile, task, images))
    capacity = lane_comparison.Capacity(
        settings.in_flight,
        settings.processes,
        expected.latency_s,
        settings.batch_lines,
        settings.batch_bytes,
        settings.rows_per_job if isinstance(settings, EmbedSettings) else 1,  # no lane sql
    )
    if lane == Lane.BATCH:
        return lane_comparison.plan_batch(usd, work, capacity)
    quota = find_quota(resolved, lane)
    if lane == Lane.SQL:
        return lane_comparison.plan_sql(usd, work, quota, capacity)
    return lane_comparison.plan_calls(lane, usd, work, quota, capacity)


def find_problem(resolved: ResolvedRun, lane: Lane) -> str | None:
    """Return why a lane is not possible; None if it is. A batch run is checked as before the run."""
    settings, changes = resolved.settings, resolved.task.image.changes_images
    if lane == Lane.SQL:
        return "BigQuery cannot crop or downscale images" if changes else None
    if lane == Lane.BATCH and resolved.needs_inline:
        return "batch jobs read images by URI, but this run must send bytes"
    if lane == Lane.BATCH and settings.location in ("us", "eu"):
        return f"batch jobs run at global or in a region, not at {settings.location}"
    try:
        resolved.profile.check(settings.location, lane, resolved.task)
        if lane == Lane.BATCH:
            batch_checks.check_batch_lane(resolved)
            batch_checks.check_image_expiration(resolved)
    except UserError as error:
        return str(error)
    return None


def find_quota(resolved: ResolvedRun, lane: Lane) -> Quota:
    """Return the quota of a lane: from the flags, else the published one, else the assumed one."""
    settings, profile = resolved.settings, resolved.profile
    assumed = profile.assumed_quotas.get(lane, Quota())
    location, max_rpm, max_tpm = settings.location, settings.max_rpm, settings.max_tpm
    if lane == Lane.SQL:  # BigQuery chooses the location, and has its own quota
        location = "europe" if resolved.location.lower().startswith("eu") else "us"
        max_rpm = max_tpm = None
    fixed = profile.fixed_rpm(location)
    source = ""
    if fixed is not None and max_rpm is None:
        source = f"published quota of {profile.name} at {settings.location}"
    elif (assumed.requests and max_rpm is None) or (assumed.tokens and max_tpm is None):
        source = assumed.source
    return Quota(max_rpm or fixed or assumed.requests, max_tpm or assumed.tokens, source)


def _notes(
    plan_settings: PlanSettings, resolved: ResolvedRun, expected: Forecast, probed: Mapping[str, Any] | None
) -> list[str]:
    settings, profile = resolved.settings, resolved.profile
    notes = list(task_warnings(resolved.models, profile, resolved.task))
    if plan_settings.probe and probed is None:
        notes.append("no remaining unit has an image: nothing was probed")
    if warning := profile.retirement_warning(datetime.datetime.now(datetime.UTC).date()):
        notes.append(warning)
    usd = expected.usd(profile, settings.lane)
    if usd is None:
        notes.append(
            f"{profile.name} has no price in lane {settings.lane}: use --price_as=MODEL, or add it with --models_file"
        )
    elif settings.max_cost_usd is not None and usd > settings.max_cost_usd:
        share = int(expected.calls * settings.max_cost_usd / usd)
        notes.append(f"--max_cost_usd={settings.max_cost_usd:f} stops the run after about {share:,} calls")
    if settings.max_calls is not None and expected.calls > settings.max_calls:
        notes.append(f"--max_calls={settings.max_calls} stops the run before all units are processed")
    if usd is not None and usd > cost_estimate.CONFIRM_ABOVE_USD:
        notes.append(f"above ${cost_estimate.CONFIRM_ABOVE_USD} a run needs --yes or --max_cost_usd")
    return notes


# -- the probe ---------------------------------------------------------------------------------------------------


def _check_probe(ready: ReadyRun, history: History, units: int) -> None:
    """Require confirmation for an expensive probe, as every paid command does.

    Raises:
        UserError: It is not confirmed, or the work directory cannot be written.
    """
    resolved = ready.resolved
    images = round(ready.counts.images / ready.counts.callable_units * units)
    expected = Forecaster(resolved.profile, resolved.task, history).forecast(units, images)
    cost_estimate.confirm(resolved.settings, expected.usd(resolved.profile, Lane.ONLINE))
    storage.check_writable(resolved.settings.work_dir)


def _probe(resolved: ResolvedRun, units: int) -> dict[str, Any]:
    """Process some units in the run's lane if it makes calls, else in the online lane.

    Returns:
        Run, counts and cost at list price, as in the JSON document of the plan.
    """
    settings = resolved.settings
    small = resolved.with_settings(
        lane=settings.lane if settings.lane in (Lane.ONLINE, Lane.FLEX) else Lane.ONLINE,
        runner="FnApiRunner",
        direct_num_workers=1,
        dataflow_workers=None,
        max_calls=min(units, settings.max_calls or units),
    )
    resolved.profile.check(settings.location, small.settings.lane, resolved.task)
    run_coroutine(model_probe.check_model_exists(small))
    transport = run_coroutine(model_probe.resolve_transport(small, units))
    small = small.with_settings(transport=transport)
    run = with_model_facts(build_run_settings(small), small, transport)
    summary = probe.process_units(resolved.bq, run, units)
    if summary["problems"]:
        raise ReconciliationError("not all units of the probe are accounted for: " + "; ".join(summary["problems"]))
    return {
        "run_id": summary["run_id"],
        **{name: summary["counted"][name] for name in ("calls", "ok", "failed")},
        "usd": None if (usd := summary["recorded"]["cost_usd"]) is None else f"{Decimal(usd):f}",
        "stop": summary["stop"],
    }

"""Forecasts and the comparison of lanes: tokens, duration, limiting factor and recommendation. No service is used."""

from __future__ import annotations

import dataclasses
import datetime
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import run_cli

from imagebeam.pipeline.flags.command import FlagCommand
from imagebeam.pipeline.planning.settings import PLAN, PlanSettings, load_plan
from imagebeam.pipeline.run import assemble, cost_estimate
from imagebeam.pipeline.run.embed_settings import JOBS
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane, UnitKind, Usage
from imagebeam.transforms.engine.max_cost import request_bytes
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.costs import estimate_total, estimate_usage, image_tokens
from imagebeam.transforms.tasks.embedding import embed_task
from imagebeam.transforms.tasks.forecast import (
    MIN_MEASURED_UNITS,
    Forecast,
    Forecaster,
    History,
    ImageSample,
    MeasuredUsage,
    TaskVersion,
    changed_fields,
    history_from_rows,
)
from imagebeam.transforms.tasks.lane_comparison import (
    ASSUMED_LATENCY_S,
    MAX_CALLS_PER_S,
    MAX_IN_FLIGHT,
    MIN_SAVING_USD,
    Capacity,
    LanePlan,
    Workload,
    count_workers,
    plan_batch,
    plan_calls,
    plan_sql,
    recommend,
)
from imagebeam.transforms.tasks.model_profiles import Quota
from imagebeam.transforms.tasks.task import ImageSettings, Task

MODELS = catalog.load_models_file()
PROFILE = MODELS.profile("gemini-3.5-flash-lite")
TASK = catalog.load_task("image_quality", MODELS, Path())
ASSETS = dataclasses.replace(TASK, unit=UnitKind.ASSET, max_images=10)
CAPACITY = Capacity(256, 1, {}, 200_000, 984_000_000, 40_000)
PLANNED = SourceCounts(
    units_in=300, remaining=300, remaining_new=300, callable_units=298, images=298, max_images_per_unit=1
)
COUNTS = st.integers(0, 10_000_000)


def capacity(**changes: Any) -> Capacity:
    return dataclasses.replace(CAPACITY, **changes)


def history(task: Task, measured: MeasuredUsage, *others: TaskVersion) -> History:
    own = TaskVersion(task.version, task.definition(), "2026-11-20T00:00:00Z")
    return History({measured.version: measured}, (*others, own))


def remaining(task: Task, past: History, **more: Any) -> Forecast:
    return Forecaster(PROFILE, task, past, **more).forecast_remaining(PLANNED)


# -- forecasts -------------------------------------------------------------------------------------------------


@given(COUNTS, COUNTS)
def test_estimate_is_proportional_to_calls(calls: int, images: int) -> None:
    single = estimate_usage(PROFILE, TASK, 1)
    assert estimate_total(PROFILE, TASK, calls=calls, images=calls) == single.times(calls)
    assert estimate_total(PROFILE, ASSETS, calls=calls, images=images + 1).prompt_tokens > (
        estimate_total(PROFILE, ASSETS, calls=calls, images=images).prompt_tokens
    )


def test_without_history_uses_the_formula_for_units_with_a_uri() -> None:
    found = remaining(TASK, History())
    assert (found.units, found.calls, found.images) == (298, 298, 298)
    assert found.usage == estimate_usage(PROFILE, TASK, 1).times(298)
    # 373 tokens of text and 560 of the image at 0.30, 45 of the answer at 2.50, in millionths.
    assert found.usd(PROFILE, Lane.ONLINE) == Decimal(298 * (933 * 30 + 45 * 250)) / 100_000_000
    assert found.usd(PROFILE, Lane.FLEX) == found.usd(PROFILE, Lane.BATCH) == Decimal("0.0584676")
    assert found.usd(MODELS.profile("gemini-2.5-flash"), Lane.FLEX) is None


@given(st.integers(1, 10_000), st.integers(0, 300), st.integers(0, 300), st.integers(1, 300))
def test_a_sample_of_all_units_gives_exact_calls_and_answers(more: int, repeated: int, failing: int, fine: int) -> None:
    units = repeated + failing + fine
    looked = ImageSample(units, units + repeated, repeated, {"NOT_FOUND": failing})
    found = Forecaster(PROFILE, TASK, History(), sample=looked).forecast(units, units)
    assert found.calls == units + repeated
    assert found.usage == estimate_total(PROFILE, TASK, calls=units - failing, images=units - failing)
    assert looked.scale_calls(units * more) == found.calls * more


def test_a_sample_without_images_changes_nothing() -> None:
    refused = remaining(TASK, History(), sample=ImageSample(refused="may not read"))
    assert refused == remaining(TASK, History())


def test_prefers_twenty_measured_units_over_the_formula() -> None:
    measured = MeasuredUsage(TASK.version, 100, 103, 100, Usage(90_000, 10_000, 2_000, 500), {"online": 1.5})
    found = remaining(TASK, history(TASK, measured))
    assert (found.calls, found.latency_s) == (round(298 * 1.03), {"online": 1.5})
    assert found.usage == Usage(268_200, 29_800, 5_960, 1_490)
    assert "100 units of this version" in found.basis
    few = dataclasses.replace(measured, units=MIN_MEASURED_UNITS - 1)
    assert remaining(TASK, history(TASK, few)).usage == (estimate_usage(PROFILE, TASK, 1).times(298))
    assert remaining(TASK, history(TASK, few), min_units=1).usage.output_tokens != 298 * 45


def test_ignores_measurements_without_answers() -> None:
    failed = MeasuredUsage(TASK.version, 3, 3, 3)
    found = remaining(TASK, history(TASK, failed), min_units=1)
    assert found.usage == estimate_usage(PROFILE, TASK, 1).times(298)


def test_uses_answers_of_another_prompt_but_not_of_other_settings() -> None:
    changed = dataclasses.replace(TASK, prompt=f"{TASK.prompt} {'Be strict. ' * 40}")
    measured = MeasuredUsage(TASK.version, 100, 100, 100, Usage(93_300, 0, 2_000, 0))
    found = remaining(changed, history(TASK, measured))
    assert found.usage.output_tokens == 20 * 298
    assert found.usage.prompt_tokens == 298 * estimate_usage(PROFILE, changed, 1).prompt_tokens
    assert TASK.version in found.basis
    thinking = dataclasses.replace(TASK, generation=dataclasses.replace(TASK.generation, thinking="low"))
    assert remaining(thinking, history(TASK, measured)).usage.output_tokens == 298 * 45


@given(st.integers(MIN_MEASURED_UNITS, 10**6), st.integers(1, 5_000), st.integers(1, 500), COUNTS)
def test_scales_measured_usage_to_the_remaining_units(asked: int, prompt: int, output: int, units: int) -> None:
    measured = MeasuredUsage(TASK.version, asked, asked, asked, Usage(asked * prompt, 0, asked * output, 0))
    found = Forecaster(PROFILE, TASK, history(TASK, measured)).forecast(units, units)
    assert found.calls == units
    # The measured images are scaled and rounded, so one image more or less can be in it.
    assert abs(found.usage.prompt_tokens - units * prompt) <= 1_200
    assert abs(found.usage.output_tokens - units * output) <= 1


def test_more_images_per_unit_cost_more() -> None:
    measured = MeasuredUsage(ASSETS.version, 50, 50, 100, Usage(50 * 1_500, 0, 2_000, 0))
    past = history(ASSETS, measured)
    same, more = (Forecaster(PROFILE, ASSETS, past).forecast(50, images) for images in (100, 150))
    assert more.usage.prompt_tokens - same.usage.prompt_tokens == 50 * (560 + 24)
    assert same.usage.prompt_tokens == 50 * 1_500


def test_outdated_units_have_the_images_of_remaining_or_measured_units() -> None:
    measured = MeasuredUsage("0" * 12, 50, 50, 150, Usage(1, 0, 1, 0))
    nothing_due = SourceCounts(units_in=80, outdated=80)
    assert Forecaster(PROFILE, ASSETS, History({"0" * 12: measured})).forecast_outdated(nothing_due).images == 240
    some = dataclasses.replace(nothing_due, callable_units=10, images=20)
    assert Forecaster(PROFILE, ASSETS, History()).forecast_outdated(some).images == 160
    assert Forecaster(PROFILE, ASSETS, History()).forecast_outdated(nothing_due).images == 800


def test_images_are_billed_by_resolution_tile_or_image() -> None:
    old = MODELS.profile("gemini-2.5-flash")
    plain = dataclasses.replace(TASK, media_resolution="default")
    assert [image_tokens(PROFILE, dataclasses.replace(TASK, media_resolution=at)) for at in ("low", "high")] == [
        280,
        1120,
    ]
    assert image_tokens(old, plain) == 1806
    assert image_tokens(old, dataclasses.replace(plain, image=ImageSettings(max_side=384))) == 258
    assert image_tokens(old, dataclasses.replace(plain, image=ImageSettings(max_side=385))) == 1806
    piece = embed_task("multimodalembedding@001", 128)
    profile = MODELS.embedding(piece.model)
    assert Forecaster(profile, piece, History()).forecast(1_000, 1_000).usd(profile, Lane.SQL) == Decimal("0.1")


def test_history_sums_the_lanes_of_a_version() -> None:
    row: dict[str, Any] = {
        "version": "v", "lane": "online", "units": 3, "images": 4, "attempts": 5, "prompt_tokens": 6,
        "cached_tokens": None, "output_tokens": 7, "thought_tokens": 8, "latency_s": 1.25,
    }  # fmt: skip
    used = datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)
    listed = {"version": "v", "definition": '{"prompt":"a"}', "created_at": used}
    found = history_from_rows([row, {**row, "lane": "batch", "latency_s": None}], [listed])
    assert found.measured["v"] == MeasuredUsage("v", 6, 10, 8, Usage(12, 0, 14, 16), {"online": 1.25})
    assert found.versions == [TaskVersion("v", {"prompt": "a"}, "2026-11-20T00:00:00Z")]


def test_names_the_changed_fields_of_a_task() -> None:
    old = TASK.definition()
    changed = dataclasses.replace(
        TASK,
        model="gemini-3.1-flash-lite",
        prompt="Look.",
        generation=dataclasses.replace(TASK.generation, thinking="low", seed=1),
    )
    assert set(changed_fields(old, changed.definition())) == {
        "model", "prompt", "generation.thinking", "generation.seed",
    }  # fmt: skip
    assert changed_fields(old, old) == ()
    assert changed_fields({**old, "gone": 1}, old) == ("gone",)


# -- how long it takes -----------------------------------------------------------------------------------------

QUOTAS = st.builds(
    Quota, st.none() | st.integers(1, 10**7), st.none() | st.integers(1_000, 10**9), st.sampled_from(["", "somebody"])
)
CAPACITIES = st.builds(
    Capacity,
    st.integers(1, MAX_IN_FLIGHT),
    st.integers(1, 100),
    st.dictionaries(st.sampled_from([Lane.ONLINE, Lane.FLEX]), st.floats(0.05, 600)),
)
WORK = st.builds(Workload, st.integers(0, 10**8), st.integers(0, 10**12), st.integers(1, 10_000))
USD = st.none() | st.decimals(0, 10**6, places=4)


@given(st.sampled_from([Lane.ONLINE, Lane.FLEX]), WORK, QUOTAS, CAPACITIES)
def test_no_lane_exceeds_any_limit(lane: Lane, work: Workload, quota: Quota, capacity: Capacity) -> None:
    plan = plan_calls(lane, None, work, quota, capacity)
    assert plan.per_s is not None
    latency_s = capacity.latency_s.get(lane, ASSUMED_LATENCY_S[lane])
    assert plan.seconds == pytest.approx(work.calls / plan.per_s + latency_s if work.calls else 0)
    slack = 1 + 1e-9
    if quota.requests:
        assert plan.per_s * 60 <= quota.requests * slack
    if quota.tokens and work.calls:
        assert plan.per_s * 60 * work.tokens / work.calls <= quota.tokens * slack
    assert plan.per_s <= MAX_CALLS_PER_S * capacity.processes * slack
    assert plan.binds
    twice = dataclasses.replace(capacity, processes=2 * capacity.processes)
    assert (plan_calls(lane, None, work, quota, twice).per_s or 0) >= plan.per_s


@given(st.floats(0.01, 10**5), st.floats(0.05, 600))
def test_workers_are_the_fewest_that_use_the_quota(granted: float, latency_s: float) -> None:
    workers = count_workers(granted, latency_s)
    each = min(MAX_CALLS_PER_S, MAX_IN_FLIGHT / latency_s)
    assert workers * each >= granted * (1 - 1e-9)
    assert workers == 1 or (workers - 1) * each < granted
    assert count_workers(math.inf, latency_s) == 1


def test_names_the_limiting_factor() -> None:
    work = Workload(calls=60_000, tokens=60_000_000)
    tokens = plan_calls(Lane.ONLINE, None, work, Quota(tokens=2_000_000), CAPACITY)
    assert (tokens.binds, round(tokens.seconds or 0), tokens.workers) == ("2,000,000 tokens per minute", 1_802, 1)
    calls = plan_calls(Lane.ONLINE, None, work, Quota(requests=600, tokens=2_000_000), CAPACITY)
    assert (calls.binds, round(calls.seconds or 0)) == ("600 calls per minute", 6_002)
    window = plan_calls(Lane.ONLINE, None, work, Quota(), capacity(in_flight=4, latency_s={Lane.ONLINE: 2.0}))
    assert (window.binds, window.seconds) == ("--in_flight=4 at 2 s per call", 30_002)
    assert window.assumed == ()
    process = plan_calls(
        Lane.ONLINE,
        None,
        work,
        Quota(requests=10**6),
        capacity(in_flight=4_096, processes=2, latency_s={Lane.ONLINE: 0.1}),
    )
    assert (process.binds, process.per_s, process.workers) == ("350 calls per second of a process", 700, 48)


@given(st.integers(0, 10**8), st.integers(1, 20_000), st.integers(1, 200_000), st.integers(20_000, 984_000_000))
def test_batch_jobs_respect_both_limits(calls: int, size: int, lines: int, most: int) -> None:
    plan = plan_batch(None, Workload(calls, 0, size), capacity(batch_lines=lines, batch_bytes=most))
    assert plan.jobs * lines >= calls
    assert plan.jobs * most >= calls * size
    assert (plan.jobs == 0) == (calls == 0)
    assert "requests" in plan.binds or "bytes" in plan.binds


def test_request_size_covers_texts_and_uris() -> None:
    one, ten = (request_bytes(PROFILE, ASSETS, images) for images in (1, 10))
    assert 1_500 < one < 5_000
    assert one + 9 * 150 < ten < one + 9 * 400


def test_sql_lane_is_limited_by_the_quota_of_bigquery() -> None:
    plan = plan_sql(Decimal(1), Workload(120_000, 0), Quota(requests=4_000), capacity(rows_per_job=50_000))
    assert (plan.jobs, round(plan.seconds or 0), plan.workers) == (3, 1_800, 0)
    unknown = plan_sql(None, Workload(1, 1), Quota(), CAPACITY)
    assert (unknown.seconds, unknown.binds) == (None, "unknown quota")


# -- which lane ------------------------------------------------------------------------------------------------

LANE = st.builds(
    LanePlan,
    st.sampled_from(Lane),
    USD,
    st.none() | st.floats(0, 10**7),
    problem=st.none() | st.just("not here"),
)


@given(st.lists(LANE, max_size=4, unique_by=lambda plan: plan.lane))
def test_recommends_an_available_lane_at_about_the_lowest_cost(plans: list[LanePlan]) -> None:
    ways = {plan.lane: plan for plan in plans if plan.problem is None}
    found = recommend(plans, 10)
    assert found.reason
    assert "\n" not in found.reason
    if not ways:
        assert found.lane is None
        return
    assert found.lane in ways
    prices = [plan.usd for plan in ways.values() if plan.usd is not None]
    usd = ways[found.lane].usd
    if len(prices) == len(ways) and usd is not None:
        assert usd - min(prices) < MIN_SAVING_USD


def test_recommends_half_the_price_for_significant_savings() -> None:
    plans = [
        LanePlan(Lane.ONLINE, Decimal(100), 3_600.0),
        LanePlan(Lane.FLEX, Decimal(50), 7_200.0),
        LanePlan(Lane.BATCH, Decimal(50), 86_400.0),
    ]
    assert recommend(plans, 1_000) == recommend(plans[::-1], 1_000)
    assert recommend(plans, 1_000).reason == "flex: saves $50.00 of $100.00 and takes 2 h instead of 1 h"
    slow = [plans[0], dataclasses.replace(plans[1], seconds=10**6), plans[2]]
    assert recommend(slow, 1_000).lane == "batch"
    cheap = [dataclasses.replace(plan, usd=(plan.usd or Decimal(0)) / 100) for plan in plans]
    assert recommend(cheap, 10).reason == "online: the fastest lane; another lane would save $0.50"
    assert recommend(plans, 0).lane is None


# -- shares, gates and flags -----------------------------------------------------------------------------------


@given(
    flag=st.sampled_from(["--max_rpm", "--max_tpm"]),
    ceiling=st.integers(1, 10**9),
    workers=st.integers(1, 1_000),
    at_least=st.integers(1, 50_000),
)
def test_rate_shares_never_exceed_the_ceiling(flag: str, ceiling: int, workers: int, at_least: int) -> None:
    if ceiling < workers * at_least:
        with pytest.raises(UserError, match=flag):
            assemble.rate_per_process(flag, ceiling, workers, at_least=at_least)
        return
    share = assemble.rate_per_process(flag, ceiling, workers, at_least=at_least)
    assert share is not None
    assert math.fsum([share * 60] * workers) <= ceiling * (1 + 1e-12)
    assert share * 60 >= at_least * (1 - 1e-12), "every worker may make a call"


def test_what_is_due_is_told_by_kind() -> None:
    planned = SourceCounts(
        units_in=20,
        remaining=12,
        remaining_new=5,
        remaining_retry=3,
        remaining_outdated=2,
        remaining_failed=2,
        already_done=8,
        callable_units=11,
        images=11,
    )
    assert cost_estimate.format_units(planned) == [
        "units    20 in the source: 12 remaining (5 new, 3 to retry, 2 outdated, 2 failed before), 8 already done",
        "         1 of the remaining units have no image URI: no call, no cost",
    ]


def test_what_is_left_out_is_told_in_the_right_number() -> None:
    one = cost_estimate.format_units(SourceCounts(rows_without_id=1, assets_without_images=1))
    several = cost_estimate.format_units(SourceCounts(rows_without_id=2, assets_without_images=1_000))
    assert [line.strip() for line in one + several if not line.startswith("units")] == [
        "1 row has no id and cannot be processed",
        "1 asset of the source has no images",
        "2 rows have no id and cannot be processed",
        "1,000 assets of the source have no images",
    ]


CLASSIFY = ("--task=image_quality", "--source=d.t", "--results=r", "--project=my-project")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("embd", *CLASSIFY), "unknown command plan embd; did you mean embed?"),
        ((*CLASSIFY, "--probe"), "--probe needs a value; for example --probe=5"),
        ((*CLASSIFY, "--probe", "--json"), "--probe needs a value"),
        ((*CLASSIFY, "--probe=0"), "--probe takes a whole number from 1 to 1000, not 0"),
        ((*CLASSIFY, "--probe=some"), "--probe takes a whole number from 1 to 1000, not 'some'"),
        (("embed", *CLASSIFY), "unknown flag --task"),
        (("--source=d.t",), "no task"),
    ],
)
def test_a_mistake_in_the_arguments_gets_one_line(
    argv: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli(["plan", *argv])
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def plan_settings(job: str, *argv: str, cwd: Path) -> PlanSettings:
    command = FlagCommand("imagebeam plan", {**JOBS[job].flags, **PLAN}, beam=True)
    return load_plan(JOBS[job], command.parse(argv), cwd=cwd, environ={})


def test_the_flags_and_the_file_are_those_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text("project: my-project\nresults: r\nsource: d.t\nlane: flex\n")
    asked = plan_settings("classify", "--task=image_quality", "--probe", "7", "--max_tpm=5000", cwd=tmp_path)
    assert (asked.command, asked.probe, asked.settings.lane, asked.settings.max_tpm) == ("classify", 7, "flex", 5_000)
    other = plan_settings("embed", "--dimension=64", "--probe=3", "--probe=4", "--look=9", cwd=tmp_path)
    assert (other.command, other.probe, other.settings.task) == ("embed", 4, "embed/gemini-embedding-2/64")
    assert (asked.sample_images, other.sample_images) == (500, 9)

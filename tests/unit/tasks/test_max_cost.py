"""The maximum cost of a call, and which caps a run can have."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.paths import TASK_DATA

from imagebeam.pipeline.console.report import exit_code, format_state
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Image, Lane, Unit, Usage
from imagebeam.transforms.engine.max_cost import check_cap, max_call_cost_usd, max_cost_of_units_usd
from imagebeam.transforms.engine.retry_policy import with_larger_limit
from imagebeam.transforms.gemini.requests import ImagePart, build_request
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.answer_schema import Schema
from imagebeam.transforms.tasks.costs import cost_usd, estimate_usage
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.models_file import load_models
from imagebeam.transforms.tasks.task import Task, parse_task

TEXT = (TASK_DATA / "models.yaml").read_text(encoding="utf-8")
MODELS = load_models(TEXT, "models.yaml")
SHIPPED = sorted((TASK_DATA / "tasks").glob("*.yaml"))
LIMITED = {"generation": {"max_output_tokens": 1000}}


def task(**keys: Any) -> Task:
    text = yaml.safe_dump({"name": "look", "prompt": "What is it?", **keys}, sort_keys=False)
    return parse_task(text, source="look.yaml", default_model=MODELS.default)


def body(task: Task, images: int = 1, **unit: Any) -> dict[str, Any]:
    shown = tuple(Image(f"o{number}", None) for number in range(images))
    parts = [ImagePart("image/jpeg", uri="gs://b/o.jpg")] * images
    subject = Unit("u", task.unit, "", shown, **unit)
    return build_request(task, MODELS.profile(task.model), subject, parts, {"imagebeam_run": "r"})


def max_cost(task: Task, lane: Lane = Lane.ONLINE, images: int = 1, **unit: Any) -> Decimal:
    return max_call_cost_usd(MODELS.profile(task.model), task, lane, body(task, images, **unit))


def test_maximum_cost_is_images_text_and_the_whole_answer_at_list_price() -> None:
    # 1000 x 2.50 for the answer and 1120 x 0.30 for the image; one token at most for each character of text.
    bound = max_cost(task(**LIMITED))
    without_text = Decimal("0.0025") + Decimal("0.000336")
    assert without_text + len("What is it?") * Decimal("0.3e-6") < bound < without_text + Decimal("0.00005")


@pytest.mark.parametrize("resolution", ["low", "medium", "high", "ultra_high"])
def test_counts_images_at_their_resolution(resolution: str) -> None:
    several = task(unit="asset", media_resolution=resolution, **LIMITED)
    tokens = MODELS.profile(several.model).image_tokens[resolution]
    more = max_cost(several, images=5) - max_cost(several, images=4)
    assert tokens * Decimal("0.3e-6") < more < (tokens + 150) * Decimal("0.3e-6")


def test_retry_with_twice_the_limit_has_twice_the_answer_cost() -> None:
    subject = task(**LIMITED)
    profile = MODELS.profile(subject.model)
    larger = with_larger_limit(body(subject), maximum=profile.max_output_tokens)
    again = max_call_cost_usd(profile, subject, Lane.ONLINE, larger)
    assert again - max_cost(subject) == 1000 * Decimal("2.5e-6")


@given(st.integers(1, 65_536), st.integers(0, 30_000), st.integers(8_192, 65_536))
def test_retry_makes_room_for_thoughts_up_to_the_limit_of_the_model(limit: int, thoughts: int, maximum: int) -> None:
    first = {"generationConfig": {"maxOutputTokens": limit, "seed": 1}}
    second = with_larger_limit(first, thoughts=thoughts, maximum=maximum)["generationConfig"]
    assert second["seed"] == 1
    assert second["maxOutputTokens"] == max(limit, min(maximum, 2 * limit + thoughts))
    assert first["generationConfig"]["maxOutputTokens"] == limit


def test_counts_prompt_fields_of_the_unit() -> None:
    subject = task(prompt="{{extra.note}}", **LIMITED)
    long = max_cost(subject, extra={"note": "é" * 1000}) - max_cost(subject, extra={"note": ""})
    assert long >= 2000 * Decimal("0.3e-6") - Decimal("0.00001"), "each byte may be a token"


def test_flex_call_may_be_billed_at_the_online_price() -> None:
    subject = task(**LIMITED)
    assert max_cost(subject, lane=Lane.FLEX) == max_cost(subject, lane=Lane.ONLINE)


def test_uses_the_limit_where_the_table_has_an_average() -> None:
    tiled = task(model="gemini-2.5-flash", **LIMITED)
    assert max_cost(tiled) > 13 * 258 * Decimal("0.3e-6") + Decimal("0.0025")


@given(
    st.text(st.characters(exclude_characters="{}"), min_size=1).filter(str.strip),
    st.integers(0, 10),
    st.sampled_from(list(MODELS.profiles)),
    st.integers(1, 65_536),
    st.sampled_from([Lane.ONLINE, Lane.FLEX, Lane.BATCH]),
)
def test_no_call_exceeds_its_maximum_cost(prompt: str, images: int, model: str, limit: int, lane: Lane) -> None:
    subject = task(prompt=prompt, model=model, unit="asset", generation={"max_output_tokens": limit})
    profile = MODELS.profile(model)
    # As expensive as possible: a token per byte, nothing cached, the longest answer.
    text = len(subject.prompt.encode("utf-8", "surrogatepass"))
    usage = Usage(text + images * profile.image_tokens["default"], 0, limit - limit // 2, limit // 2)
    cost = cost_usd(profile, lane, usage)
    assert cost is None if lane not in profile.prices else cost is not None and cost <= max_cost(subject, lane, images)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_shipped_tasks_can_be_capped_above_their_estimate(path: Path) -> None:
    subject = catalog.load_task(path.stem, MODELS, path.parent)
    profile = MODELS.profile(subject.model)
    planned = check(subject, "100")
    estimated = cost_usd(profile, Lane.ONLINE, estimate_usage(profile, subject, subject.max_images))
    assert estimated is not None
    assert estimated < planned
    assert planned == max_cost_of_units_usd(profile, subject, Lane.ONLINE, subject.max_images)


# -- caps --------------------------------------------------------------------------------------------------


def check(
    subject: Task,
    usd: str | None = None,
    calls: int | None = None,
    *,
    processes: int = 1,
    lane: Lane = Lane.ONLINE,
    profile: ModelProfile | None = None,
) -> Decimal:
    return check_cap(
        profile or MODELS.profile(subject.model),
        subject,
        lane,
        max_cost_usd=None if usd is None else Decimal(usd),
        max_calls=calls,
        processes=processes,
    )


SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("keys", "caps", "message"),
    [
        (LIMITED, {"usd": "0"}, "--max_cost_usd=0 must be above 0"),
        (LIMITED, {"usd": "-1"}, "--max_cost_usd=-1 must be above 0"),
        ({}, {"usd": "5"}, "set generation.max_output_tokens in the task, such as 1024"),
        ({"schema": SCHEMA}, {"usd": "5"}, "answers of task look have no limit"),
        (LIMITED, {"usd": "0.0001"}, "--max_cost_usd=0.0001 is below the maximum cost of one call of task look"),
        (LIMITED, {"usd": "0.005", "processes": 2}, "for each of 2 worker processes: set it to at least 0.00"),
        (LIMITED, {"calls": 3, "processes": 4}, "--max_calls=3 is less than one call for each of 4 worker processes"),
        ({"model": "gemini-2.5-flash", **LIMITED}, {"usd": "5", "lane": Lane.FLEX}, "in lane flex is not known"),
    ],
)
def test_rejects_a_cap_that_cannot_be_enforced(keys: dict[str, Any], caps: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(task(**keys), **caps)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_model_without_a_price_can_only_be_capped_in_calls() -> None:
    name = "projects/p/locations/us-central1/endpoints/123"
    subject = task(model=name, **LIMITED)
    assert check(subject, calls=5) == 0
    with pytest.raises(
        UserError, match=r"use --price_as=MODEL, cap the calls with --max_calls, or set the price in a --models_file"
    ):
        check(subject, "5")


def test_accepts_the_cap_that_the_error_suggests() -> None:
    subject = task(**LIMITED)
    with pytest.raises(UserError) as caught:
        check(subject, "0.001", processes=3)
    named = str(caught.value).partition("set it to at least ")[2].partition(",")[0]
    assert check(subject, named, processes=3) == Decimal(named) / 3


def test_accepts_any_run_without_a_cap() -> None:
    assert check(task()) > 0


# -- the exit code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "problems", "code"),
    [
        ("budget: --max_cost_usd=1 is used up", [], 4),
        ("budget: --max_calls=5 is used up", [], 4),
        ("budget: --max_calls=5 is used up", ["3 units remain, but 2 were read"], 1),
        ("systemic: cannot take budget shares in x", [], 3),
    ],
)
def test_end_of_budget_is_exit_code_4_if_counts_reconcile(stop: str, problems: list[str], code: int) -> None:
    summary = {"counted": {"ok": 5, "failed": {}}, "source": {}, "stop": stop, "problems": problems}
    assert exit_code(summary, 20.0) == code


@pytest.mark.parametrize(
    ("ok", "failed", "answered_before", "code", "state"),
    [
        (0, {}, 0, 0, "all units accounted for"),
        (1, {"BLOCKED/SAFETY": 9}, 0, 0, "all units accounted for"),
        (0, {"BLOCKED/SAFETY": 1}, 9, 5, "NO UNIT WAS ANSWERED: all 1 failed with BLOCKED/SAFETY"),
        (0, {"IMAGE_ERROR/NOT_FOUND": 4}, 9, 0, "all units accounted for"),
        (0, {"IMAGE_ERROR/NOT_FOUND": 4}, 0, 5, "NO UNIT WAS ANSWERED: all 4 failed with IMAGE_ERROR/NOT_FOUND"),
        (
            0,
            {"BLOCKED/SAFETY": 1, "INVALID_ANSWER/TRUNCATED": 9},
            0,
            5,
            "NO UNIT WAS ANSWERED: all 10 failed with INVALID_ANSWER/TRUNCATED, BLOCKED/SAFETY",
        ),
    ],
)
def test_run_without_an_answer_is_exit_code_5(
    ok: int, failed: dict[str, int], answered_before: int, code: int, state: str
) -> None:
    for state_before in ("already_done", "outdated"):
        source = {"already_done": 0, "outdated": 0, state_before: answered_before}
        summary: dict[str, Any] = {
            "counted": {"ok": ok, "failed": failed},
            "source": source,
            "stop": None,
            "problems": [],
        }
        assert exit_code(summary, 100.0) == code
    assert format_state(summary) == state


def test_counts_the_schema_as_text() -> None:
    schema: Schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(50)}}
    assert max_cost(task(schema=schema, **LIMITED)) > max_cost(task(**LIMITED)) + 500 * Decimal("0.3e-6")

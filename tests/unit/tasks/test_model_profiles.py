"""Model profiles: the shipped file, costs computed by hand, and what models support."""

import dataclasses
import datetime
import math
import pickle
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.paths import TASK_DATA

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane, Usage
from imagebeam.transforms.tasks.costs import cost_usd, estimate_usage, task_warnings
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Models
from imagebeam.transforms.tasks.models_file import load_models
from imagebeam.transforms.tasks.task import Task, parse_task

TEXT = (TASK_DATA / "models.yaml").read_text(encoding="utf-8")
MODELS = load_models(TEXT, "models.yaml")
ENDPOINT = "projects/p/locations/us-central1/endpoints/123"


def task(**keys: Any) -> Task:
    text = yaml.safe_dump({"name": "look", "prompt": "What is it?", **keys}, sort_keys=False)
    return parse_task(text, source="look.yaml", default_model=MODELS.default)


def test_default_model_is_not_retired() -> None:
    profile = MODELS.profile(MODELS.default)
    assert MODELS.as_of == datetime.date(2026, 11, 20)
    assert "global" in profile.locations
    assert profile.retirement_warning(MODELS.as_of) is None


def test_gemini_25_flash_works_with_a_warning() -> None:
    profile = MODELS.profile("gemini-2.5-flash")
    profile.check("us-central1", Lane.ONLINE, task())
    warning = profile.retirement_warning(MODELS.as_of)
    assert warning is not None
    assert warning.startswith("model gemini-2.5-flash retires on 2027-03-31; ")
    assert "gemini-3.5-flash-lite" in warning


@pytest.mark.parametrize("profile", MODELS.profiles.values(), ids=lambda profile: str(profile.name))
def test_shipped_models_are_complete_and_other_lanes_cost_half(profile: ModelProfile) -> None:
    assert profile.prices
    assert profile.thinking.default in profile.thinking.allowed
    online = profile.prices["online"]
    assert online.cached * 10 == online.input
    for lane in set(profile.prices) - {"online"}:
        assert profile.prices[lane].input * 2 == online.input
        assert profile.prices[lane].output * 2 == online.output
        assert profile.prices[lane].cached == online.cached
    assert bool(profile.flex_locations) == ("flex" in profile.prices)
    assert pickle.loads(pickle.dumps(profile)) == profile


@pytest.mark.parametrize(
    ("model", "lane", "usage", "cost"),
    [
        # 480 x 0.30 + 14 x 2.50 = 144 + 35 = 179 millionths
        ("gemini-3.5-flash-lite", Lane.ONLINE, Usage(480, 0, 14, 0), "0.000179"),
        ("gemini-3.5-flash-lite", Lane.FLEX, Usage(480, 0, 14, 0), "0.0000895"),
        ("gemini-3.5-flash-lite", Lane.BATCH, Usage(480, 0, 14, 0), "0.0000895"),
        # (480 - 400) x 0.30 + 400 x 0.03 + 14 x 2.50 = 24 + 12 + 35
        ("gemini-3.5-flash-lite", Lane.ONLINE, Usage(480, 400, 14, 0), "0.000071"),
        # the cache's discount is not halved again: 80 x 0.15 + 400 x 0.03 + 14 x 1.25
        ("gemini-3.5-flash-lite", Lane.FLEX, Usage(480, 400, 14, 0), "0.0000415"),
        # thoughts cost what answers cost: 1000 x 1.50 + (10 + 90) x 9
        ("gemini-3.5-flash", Lane.ONLINE, Usage(1000, 0, 10, 90), "0.0024"),
        ("gemini-3.1-flash-lite", Lane.BATCH, Usage(1, 1, 1, 0), "0.000000775"),
        ("gemini-3.8-flash", Lane.FLEX, Usage(1, 0, 0, 1), "0.00000225"),
        ("gemini-2.5-flash-lite", Lane.ONLINE, Usage(1_000_000, 0, 1_000_000, 0), "0.5"),
        ("gemini-2.5-flash", Lane.ONLINE, Usage(), "0"),
        # more cached than asked cannot be: never a negative price
        ("gemini-3.5-flash-lite", Lane.ONLINE, Usage(10, 20, 0, 0), "0.0000003"),
        # what was billed counts, as the service tells it
        ("gemini-3.5-flash-lite", Lane.FLEX, Usage(480, 0, 14, 0, "ON_DEMAND_FLEX"), "0.0000895"),
        ("gemini-3.5-flash-lite", Lane.FLEX, Usage(480, 0, 14, 0, "ON_DEMAND"), "0.000179"),
        ("gemini-3.5-flash-lite", Lane.BATCH, Usage(480, 0, 14, 0, "ON_DEMAND"), "0.0000895"),
        ("gemini-3.5-flash-lite", Lane.ONLINE, Usage(480, 0, 14, 0, "PROVISIONED_THROUGHPUT"), "0"),
        (ENDPOINT, Lane.ONLINE, Usage(), "0"),
    ],
)
def test_cost_matches_calculation_by_hand(model: str, lane: Lane, usage: Usage, cost: str) -> None:
    computed = cost_usd(MODELS.profile(model), lane, usage)
    assert computed is not None
    assert computed == Decimal(cost)
    assert -int(computed.as_tuple().exponent) <= 9  # BigQuery's NUMERIC


@pytest.mark.parametrize(
    ("model", "lane"),
    [(ENDPOINT, Lane.ONLINE), ("gemini-9-ultra", Lane.BATCH), ("gemini-2.5-flash", Lane.FLEX)],
)
def test_cost_without_a_price_is_unknown_not_zero(model: str, lane: Lane) -> None:
    assert cost_usd(MODELS.profile(model), lane, Usage(480, 0, 14, 0)) is None
    assert cost_usd(MODELS.profile(model), lane, Usage(0, 0, 0, 1)) is None


TOKENS = st.integers(0, 10**7)


@given(
    TOKENS,
    TOKENS,
    TOKENS,
    TOKENS,
    st.sampled_from(list(MODELS.profiles)),
    st.sampled_from([Lane.ONLINE, Lane.BATCH]),
)
def test_more_tokens_never_cost_less(
    prompt: int, cached: int, output: int, thoughts: int, model: str, lane: Lane
) -> None:
    profile = MODELS.profile(model)
    usage = Usage(prompt, min(cached, prompt), output, thoughts)
    cost, more = (cost_usd(profile, lane, each) for each in (usage, usage + Usage(1, 0, 1, 1)))
    assert cost is not None
    assert more is not None
    assert 0 <= cost <= more


# -- what a model takes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "location"),
    [
        ("gemini-3.5-flash-lite", "global"),
        ("gemini-3.5-flash-lite", "eu"),
        ("gemini-2.5-flash", "europe-west6"),
        ("gemini-2.5-flash", "northamerica-northeast1"),
        ("gemini-2.5-flash", "global"),
        (ENDPOINT, "us-central1"),
    ],
)
def test_accepts_models_at_their_locations(model: str, location: str) -> None:
    MODELS.profile(model).check(location, Lane.ONLINE, task())


@pytest.mark.parametrize(
    ("model", "location", "lane", "keys", "message"),
    [
        ("gemini-3.5-flash-lite", "us-central1", Lane.ONLINE, {}, "in us-central1: use --location=global"),
        ("gemini-3.5-flash-lite", "us-central1", Lane.ONLINE, {}, "(available in global, us, eu)"),
        ("gemini-2.5-flash", "eu", Lane.ONLINE, {}, "any region such as us-central1"),
        (ENDPOINT, "global", Lane.ONLINE, {}, "use --location=us-central1"),
        ("gemini-3.5-flash-lite", "eu", Lane.FLEX, {}, "only in global, not in eu"),
        ("gemini-2.5-flash", "global", Lane.FLEX, {}, "the flex lane does not support gemini-2.5-flash"),
        ("gemini-3.5-flash-lite", "global", "flexi", {}, "did you mean flex?"),
        (
            "gemini-3.7-flash",
            "global",
            Lane.ONLINE,
            {"generation": {"thinking": "minimal"}},
            "task look: generation.thinking: gemini-3.7-flash does not support minimal: use one of low, medium, high",
        ),
        (
            "gemini-3.5-flash-lite",
            "global",
            Lane.ONLINE,
            {"generation": {"thinking": 100}},
            "does not support 100: use one of minimal, low, medium, high",
        ),
        (
            "gemini-2.5-flash-lite",
            "global",
            Lane.ONLINE,
            {"generation": {"thinking": 100}},
            "or a budget from 512 to 24576 tokens",
        ),
        (
            "gemini-2.5-flash",
            "global",
            Lane.ONLINE,
            {"media_resolution": "ultra_high"},
            "does not support ultra_high: use one of default, low, medium, high",
        ),
    ],
)
def test_rejects_unsupported_settings_and_names_supported_ones(
    model: str, location: str, lane: Lane, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        MODELS.profile(model).check(location, lane, task(**keys))
    assert message in str(caught.value)


def test_names_the_location_of_a_tuned_endpoint_once() -> None:
    with pytest.raises(UserError, match=r"use --location=us-central1$"):
        MODELS.profile(ENDPOINT).check("global", Lane.ONLINE, task())


@pytest.mark.parametrize(
    ("model", "thinking", "config"),
    [
        ("gemini-3.5-flash-lite", None, None),
        ("gemini-3.5-flash-lite", "low", {"thinkingLevel": "LOW"}),
        ("gemini-2.5-flash", "minimal", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024}),
        ("gemini-2.5-flash", 512, {"thinkingBudget": 512}),
        ("gemini-2.5-flash-lite", 0, {"thinkingBudget": 0}),
        (ENDPOINT, "low", None),
    ],
)
def test_sends_thinking_as_level_or_budget(
    model: str, thinking: str | int | None, config: dict[str, Any] | None
) -> None:
    profile = MODELS.profile(model)
    if thinking is not None:
        profile.check(
            profile.locations[0] if profile.locations else "us-central1",
            Lane.ONLINE,
            task(generation={"thinking": thinking}),
        )
    assert profile.thinking.config(thinking) == config


def test_unknown_model_gets_one_warning_with_a_suggestion_and_no_checks() -> None:
    profile = MODELS.profile("publishers/google/models/gemini-3.5-flash-light@001")
    assert (profile.name, profile.known, profile.prices) == ("gemini-3.5-flash-light@001", False, {})
    for location in ("global", "eu", "us-central1"):
        for lane in (Lane.ONLINE, Lane.FLEX, Lane.BATCH):
            profile.check(location, lane, task(media_resolution="ultra_high"))
    (warning,) = task_warnings(MODELS, profile, task(model=profile.name, generation={"max_output_tokens": 1}))
    assert "gemini-3.5-flash-light@001 is not in models.yaml; did you mean gemini-3.5-flash-lite?" in warning
    assert "its cost is unknown" in warning
    assert "--price_as=MODEL" in warning


def test_tuned_model_is_priced_as_its_base_without_a_change_of_what_is_sent() -> None:
    base = MODELS.profile("gemini-2.5-flash")
    profile = MODELS.profile(ENDPOINT, price_as="google/gemini-2.5-flash")
    assert (profile.locations, profile.prices, profile.tile_tokens) == (("us-central1",), base.prices, base.tile_tokens)
    cold = task(model=ENDPOINT, generation={"temperature": 0, "thinking": "low"})
    assert profile.drop_ignored_settings(cold) == MODELS.profile(ENDPOINT).drop_ignored_settings(cold)
    asked = task(model=ENDPOINT)
    assert estimate_usage(profile, asked, 3) == estimate_usage(base, asked, 3)
    assert cost_usd(profile, Lane.BATCH, Usage(100, 0, 10)) == cost_usd(base, Lane.BATCH, Usage(100, 0, 10))
    assert task_warnings(MODELS, profile, asked) == ()
    (ignored,) = task_warnings(MODELS, profile, profile.drop_ignored_settings(cold))
    assert ignored.startswith(f"generation.thinking is not sent to model {ENDPOINT}, because models.yaml does not have")
    with pytest.raises(UserError, match=r"flex lane does not support"):
        profile.check("us-central1", Lane.FLEX, asked)
    with pytest.raises(UserError, match=r"--price_as=gemini-2.5-flsh: .*did you mean gemini-2.5-flash"):
        MODELS.profile(ENDPOINT, price_as="gemini-2.5-flsh")


@pytest.mark.parametrize(
    ("model", "generation", "warning"),
    [
        # The settings of Google's batch page, on the model that it names.
        ("gemini-2.5-flash", {"max_output_tokens": 200}, "(thinking medium, its default: about 500 tokens)"),
        ("gemini-2.5-flash", {"max_output_tokens": 799}, "raise it to 8,492, or set generation.thinking: minimal"),
        ("gemini-2.5-flash", {"max_output_tokens": 800}, None),
        ("gemini-2.5-flash", {"max_output_tokens": 200, "thinking": "minimal"}, None),
        ("gemini-2.5-flash", {"max_output_tokens": 400, "thinking": 200}, "(thinking 200: about 200 tokens)"),
        ("gemini-2.5-flash", {}, None),
        ("gemini-3.7-flash", {"max_output_tokens": 400, "thinking": "low"}, "raise it to 450"),
        ("gemini-3.5-flash-lite", {"max_output_tokens": 10}, None),
    ],
)
def test_warns_of_an_output_limit_without_room_for_thoughts(
    model: str, generation: dict[str, Any], warning: str | None
) -> None:
    found = task_warnings(MODELS, MODELS.profile(model), task(model=model, generation=generation))
    assert len(found) == int(warning is not None)
    assert warning is None or warning in found[0]


def test_drops_settings_that_a_model_ignores() -> None:
    hot = task(generation={"temperature": 1, "seed": 2, "thinking": "low"})
    dropped = MODELS.profile("gemini-3.5-flash-lite").drop_ignored_settings(hot)
    assert dropped.ignored_settings == ("temperature",)
    assert dropped.generation == task(generation={"seed": 2, "thinking": "low"}).generation
    assert MODELS.profile("gemini-2.5-flash").drop_ignored_settings(hot) is hot
    assert MODELS.profile(ENDPOINT).drop_ignored_settings(hot).ignored_settings == ("thinking",)


@pytest.mark.parametrize(
    ("today", "message"),
    [
        ("2026-10-29", None),
        ("2026-10-30", "retires on 2027-01-28"),
        ("2027-01-27", "retires on 2027-01-28"),
        ("2027-01-28", "was retired on 2027-01-28"),
    ],
)
def test_warns_of_retirement_ninety_days_before(today: str, message: str | None) -> None:
    warning = MODELS.profile("gemini-3.7-flash").retirement_warning(datetime.date.fromisoformat(today))
    assert warning is None if message is None else message in str(warning)


# -- estimates ---------------------------------------------------------------------------------------------


def test_estimate_includes_text_images_and_thoughts() -> None:
    profile = MODELS.profile("gemini-3.5-flash-lite")
    free = task(prompt="x" * 400, media_resolution="low")
    assert estimate_usage(profile, free, 1) == Usage(100 + 280, 0, 300, 0)
    asset = task(prompt="x" * 400, unit="asset", generation={"thinking": "low", "max_output_tokens": 200})
    assert estimate_usage(profile, asset, 3) == Usage(100 + 3 * (1120 + 24), 0, 50, 150)


def test_estimate_grows_with_the_schema() -> None:
    profile = MODELS.profile(MODELS.default)
    one = {"a": {"type": "string"}}
    more = {**one, "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "number"}}}}}
    small, large = (
        estimate_usage(profile, task(schema={"type": "object", "properties": properties}), 1)
        for properties in (one, more)
    )
    assert small.output_tokens < large.output_tokens
    assert small.prompt_tokens < large.prompt_tokens


@pytest.mark.parametrize("model", [*MODELS.profiles, ENDPOINT])
@pytest.mark.parametrize("thinking", [None, "low", 1024])
def test_estimates_every_model(model: str, thinking: str | int | None) -> None:
    asked = task(generation={} if thinking is None else {"thinking": thinking})
    usage = estimate_usage(MODELS.profile(model), asked, 1)
    assert usage.prompt_tokens > 0
    assert usage.thought_tokens >= 0


# -- the file ----------------------------------------------------------------------------------------------


def with_change(path: str, value: object) -> Models:
    document: dict[str, Any] = yaml.safe_load(TEXT)
    *parents, last = path.split("/")
    place = document
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return load_models(yaml.safe_dump(document), "mine.yaml")


LITE = "models/gemini-3.5-flash-lite"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("as_of", ..., "mine.yaml: as_of: is missing"),
        ("as_of", "today", "mine.yaml: as_of: must be a date such as 2026-11-20"),
        ("default", "gemini-9", "mine.yaml: default: 'gemini-9' is not one of"),
        ("modls", {}, "mine.yaml: modls: unknown key; did you mean models?"),
        ("thought_tokens", {"deep": 1}, "thought_tokens.deep: unknown key"),
        (f"{LITE}/locations", [], "locations: must name at least one"),
        (f"{LITE}/locations", "global", "locations: must be a list of strings"),
        (f"{LITE}/prices/online/input", "0.30", "prices.online.input: must be a number"),
        (f"{LITE}/prices/online/input", -1, "prices.online.input: must be a number"),
        (f"{LITE}/prices/online/input", math.inf, "prices.online.input: must be a number"),
        (f"{LITE}/prices/online/cached", ..., "prices.online.cached: is missing"),
        (f"{LITE}/prices/fast", {}, "prices.fast: unknown key"),
        (f"{LITE}/thinking/param", "levels", "thinking.param: 'levels' is not one of level, budget, none"),
        (f"{LITE}/thinking/allowed", ["deep"], "deep is not one of minimal, low, medium, high"),
        (f"{LITE}/thinking/default", "hihg", "did you mean high?"),
        (f"{LITE}/image_tokens/default", ..., "image_tokens.default: is missing"),
        (f"{LITE}/image_tokens/huge", 1, "image_tokens.huge: unknown key"),
        (f"{LITE}/fixed_sampling", "yes", "fixed_sampling: must be true or false"),
        (f"{LITE}/retirement/date", ..., "retirement.date: is missing"),
        ("models/gemini-2.5-flash/thinking/range", [0], "thinking.range: must be the smallest and the largest"),
    ],
)
def test_invalid_models_files_are_errors_with_path(path: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        with_change(path, value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


SHIPPED = (TEXT, "models.yaml (shipped)")


def added(document: dict[str, Any]) -> Models:
    return load_models(yaml.safe_dump(document), "mine.yaml", SHIPPED)


def test_models_file_adds_to_the_shipped_models_and_overrides_them() -> None:
    document = {
        "models": {
            "google/gemini-2.5-flash": {"prices": {"online": {"input": 0.2}}},
            "gemini-2.5-pro": {"like": "gemini-2.5-flash", "prices": {"online": {"input": 1.25, "output": 10}}},
            f"{ENDPOINT}": {"like": "gemini-3.7-flash"},
        }
    }
    models, shipped = added(document), MODELS.profile("gemini-2.5-flash")
    assert set(models.profiles) == {*MODELS.profiles, "gemini-2.5-pro", ENDPOINT}
    assert (models.as_of, models.default, models.embeddings) == (MODELS.as_of, MODELS.default, MODELS.embeddings)
    cheap, pro = models.profile("gemini-2.5-flash"), models.profile("gemini-2.5-pro")
    assert cheap.prices["online"] == dataclasses.replace(shipped.prices["online"], input=Decimal("0.2"))
    assert (cheap.prices["batch"], cheap.retirement) == (shipped.prices["batch"], shipped.retirement)
    assert (pro.prices["online"].output, pro.retirement, pro.thinking) == (Decimal(10), None, shipped.thinking)
    tuned = models.profile(ENDPOINT)
    assert (tuned.locations, tuned.flex_locations, tuned.known) == (("us-central1",), (), True)
    assert tuned.prices == MODELS.profile("gemini-3.7-flash").prices
    assert models.unknown_warning(tuned) is None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"models": {"a/b c": {}}}, "mine.yaml: models.a/b c: 'a/b c' is not the name of a model"),
        (
            {"models": {"gemini-9": {"like": "gemini-2.5-flsh"}}},
            "gemini-9.like: unknown model gemini-2.5-flsh; did you",
        ),
        ({"models": {"gemini-9": {"prices": {}}}}, "mine.yaml: models.gemini-9.image_tokens.default: is missing"),
        ({"default": "gemini-9"}, "mine.yaml: default: 'gemini-9' is not one of"),
    ],
)
def test_mistakes_in_an_added_file_have_their_path(document: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        added(document)
    assert message in str(caught.value)


def test_accepts_models_without_thinking_and_price() -> None:
    models = with_change("models/my-model", {"locations": ["regions"], "image_tokens": {"default": 258}})
    profile = models.profile("my-model")
    profile.check("us-east1", Lane.ONLINE, task(generation={"thinking": "low"}))
    assert not profile.prices
    assert profile.thinking.config("low") is None

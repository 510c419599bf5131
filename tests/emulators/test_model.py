"""The local model: what it measures, and that its answers fit any schema and say what was measured."""

import io
import json
import math
from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from imagebeam.emulators.fake_model.image_stats import BRIGHT, DARK, SHARP, SOFT, ImageStats, NotAnImageError, measure
from imagebeam.emulators.fake_model.schema_filler import DISCLAIMER, fill
from imagebeam.transforms.tasks.answer_schema import fit_answer
from imagebeam.transforms.tasks.task import parse_task

FOLDER = resources.files("imagebeam.emulators.sample_data") / "photos"
PHOTOS = sorted(file.name for file in FOLDER.iterdir() if file.name.endswith(".jpg"))
QUALITY_TASK = (resources.files("imagebeam.transforms.tasks") / "data" / "tasks" / "image_quality.yaml").read_text(
    "utf-8"
)


def photo(name: str, side: int = 320) -> Image.Image:
    image = Image.open(io.BytesIO((FOLDER / name).read_bytes())).convert("RGB")
    image.thumbnail((side, side))
    return image


def saved(image: Image.Image, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind, quality=85)
    return out.getvalue()


def seen(image: Image.Image) -> ImageStats:
    return measure(saved(image))


def darkened(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value * 0.2)


def overexposed(image: Image.Image) -> Image.Image:
    return image.point(lambda value: min(255.0, value * 1.7 + 110))


def answer(schema: dict[str, Any], *measured: ImageStats, prompt: str = "Look.", seed: int = 0) -> Any:
    return json.loads(fill(schema, prompt, measured, seed))


def enum(*values: str, name: str = "it") -> dict[str, Any]:
    return {"type": "OBJECT", "properties": {name: {"type": "STRING", "enum": list(values)}}}


# -- measuring ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PHOTOS)
def test_blur_is_detected_in_any_light(name: str) -> None:
    image = photo(name)
    blurred = image.filter(ImageFilter.GaussianBlur(3))
    assert seen(image).sharpness >= SHARP
    assert seen(blurred).sharpness < SOFT
    assert seen(darkened(blurred)).sharpness < SOFT
    assert seen(darkened(image)).sharpness > SOFT


@pytest.mark.parametrize("name", PHOTOS)
def test_blur_is_detected_in_the_full_size_photo(name: str) -> None:
    image = photo(name, 640)
    assert seen(image.filter(ImageFilter.GaussianBlur(6))).sharpness < SOFT < SHARP <= seen(image).sharpness


@pytest.mark.parametrize("name", PHOTOS)
def test_exposure_is_measured(name: str) -> None:
    image = photo(name)
    dark, normal, bright = seen(darkened(image)), seen(image), seen(overexposed(image))
    assert dark.brightness < DARK
    assert dark.brightness < normal.brightness < bright.brightness
    assert bright.brightness > 0.45


def test_saturation_is_measured() -> None:
    assert seen(photo("coffee.jpg").convert("L")).grey
    assert not seen(photo("coffee.jpg")).grey
    assert seen(photo("coffee.jpg")).colorfulness > 45


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 128, 128), "grey"), ((220, 20, 20), "red"),
        ((240, 140, 20), "orange"), ((110, 70, 30), "brown"), ((240, 220, 30), "yellow"), ((30, 160, 50), "green"),
        ((40, 80, 220), "blue"), ((140, 40, 200), "purple"), ((250, 80, 180), "pink"),
    ],
)  # fmt: skip
def test_plain_colors_have_common_names(rgb: tuple[int, int, int], name: str) -> None:
    assert measure(saved(Image.new("RGB", (40, 30), rgb), "PNG")).dominant_color == name


def test_uniform_image_has_no_contrast_edges_or_entropy() -> None:
    even = measure(saved(Image.new("RGB", (50, 30), (90, 90, 90)), "PNG"))
    assert (even.width, even.height) == (50, 30)
    assert (even.contrast, even.edge_density, even.entropy, even.sharpness) == pytest.approx((0, 0, 0, 0), abs=1e-6)
    assert even.brightness == pytest.approx(90 / 255, abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 1), (900, 1)])
def test_measures_the_smallest_images(size: tuple[int, int]) -> None:
    found = measure(saved(Image.new("RGB", size, "red"), "PNG"))
    numbers = (found.brightness, found.contrast, found.colorfulness, found.sharpness, found.entropy)
    assert all(math.isfinite(number) for number in numbers)


def test_rejects_invalid_and_truncated_images() -> None:
    whole = saved(photo("cat.jpg"))
    for data in (b"", b"GIF89a", b"%PDF-1.7 text", whole[:100], whole[: len(whole) // 2]):
        with pytest.raises(NotAnImageError):
            measure(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_rejects_image_with_too_many_pixels_before_decoding() -> None:
    bomb = saved(Image.new("1", (12_000, 9_000)), "PNG")
    with pytest.raises(NotAnImageError, match="too many"):
        measure(bomb)


# -- answering truthfully ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PHOTOS)
def test_quality_task_is_answered_from_pixels(name: str) -> None:
    task = parse_task(QUALITY_TASK, source="image_quality", default_model="gemini-3.5-flash-lite")
    schema: Any = task.schema
    image = photo(name)
    good = answer(schema, seen(image))
    fit_answer(schema, good)
    assert good["sharpness"] == "sharp"
    blurred = answer(schema, seen(image.filter(ImageFilter.GaussianBlur(3))))
    assert (blurred["sharpness"], blurred["usable"]) == ("blurry", False)
    dark = answer(schema, seen(darkened(image)))
    assert (dark["exposure"], dark["usable"]) == ("dark", False)
    assert answer(schema, seen(image.convert("L")))["colourfulness"] == "grey"
    assert max(blurred["quality_score"], dark["quality_score"]) < max(good["quality_score"], 0.36)
    assert good["exposure"] == ("dark" if seen(image).brightness < DARK else "normal")
    assert seen(image).brightness < BRIGHT
    assert good["dominant_colour"] == seen(image).dominant_color


@pytest.mark.parametrize(
    ("values", "good", "blurred", "dark", "bright"),
    [
        (("in focus", "out of focus"), "in focus", "out of focus", None, None),
        (("BLURRY", "SHARP"), "SHARP", "BLURRY", None, None),
        (("underexposed", "well exposed", "overexposed"), "well exposed", None, "underexposed", "overexposed"),
        (("too_dark", "ok", "too_bright"), "ok", None, "too_dark", "too_bright"),
        (("none", "blur", "dark", "glare", "other"), "none", "blur", "dark", "glare"),
        (("usable", "unusable"), "usable", "unusable", "unusable", "unusable"),
        (("good", "fair", "poor"), "good", "poor", "poor", "poor"),
    ],
)
def test_enum_answer_follows_the_meaning_of_its_values(
    values: tuple[str, ...], good: str, blurred: str | None, dark: str | None, bright: str | None
) -> None:
    image = photo("cat.jpg")
    spoilt = (image.filter(ImageFilter.GaussianBlur(4)), darkened(image), overexposed(image))
    assert answer(enum(*values), seen(image))["it"] == good
    for wanted, picture in zip((blurred, dark, bright), spoilt, strict=True):
        assert wanted is None or answer(enum(*values), seen(picture))["it"] == wanted


def test_levels_follow_the_subject_of_the_field() -> None:
    image = photo("cat.jpg")
    blurred = image.filter(ImageFilter.GaussianBlur(4))
    for name, of_sharp, of_blurred in (("sharpness", "high", "low"), ("blurriness", "low", "high")):
        schema = enum("low", "medium", "high", name=name)
        assert answer(schema, seen(image))[name] == of_sharp
        assert answer(schema, seen(blurred))[name] == of_blurred


def test_booleans_follow_the_name_of_the_field() -> None:
    names = ("is_blurry", "isSharp", "not_blurry", "too_dark", "usable")
    schema = {"type": "OBJECT", "properties": {name: {"type": "BOOLEAN"} for name in names}}
    image = photo("cat.jpg")
    assert list(answer(schema, seen(image)).values()) == [False, True, True, False, True]
    blurred = answer(schema, seen(image.filter(ImageFilter.GaussianBlur(4))))
    assert list(blurred.values()) == [True, False, False, False, False]
    yes_no = enum("yes", "no", name="blurry")
    assert answer(yes_no, seen(image))["blurry"] == "no"


def test_list_of_problems_has_the_measured_ones() -> None:
    schema = {"type": "ARRAY", "items": {"type": "STRING", "enum": ["blurry", "dark", "overexposed", "none"]}}
    image = photo("cat.jpg")
    assert answer(schema, seen(image)) == ["none"]
    assert answer(schema, seen(darkened(image.filter(ImageFilter.GaussianBlur(4))))) == ["blurry", "dark"]


def test_content_is_not_visible_in_an_unusable_image() -> None:
    schema = enum("wood", "steel", "not_visible", name="material")
    black = seen(Image.new("RGB", (200, 200)))
    assert {answer(schema, black, seed=seed)["material"] for seed in range(20)} == {"not_visible"}
    assert {answer(schema, seen(photo("cat.jpg")), seed=seed)["material"] for seed in range(20)} == {"wood", "steel"}


def test_sharpest_of_several_images_counts() -> None:
    image = photo("temple.jpg")
    sharp, blurred = seen(image), seen(image.filter(ImageFilter.GaussianBlur(4)))
    for measured in ((sharp, blurred), (blurred, sharp)):
        assert answer(enum("sharp", "blurry"), *measured)["it"] == "sharp"


def test_free_text_reports_measurements_and_names_the_emulator() -> None:
    image = photo("retina.jpg")
    text = fill(None, "Describe.", [seen(image.filter(ImageFilter.GaussianBlur(4)))], 0)
    assert text == f"A blurry, well exposed, colourful 320 × 320 photograph, mostly red. {DISCLAIMER}"
    assert "not Gemini" in DISCLAIMER
    assert fill(None, "Describe.", [], 0).startswith("There is no image")


def test_numbers_are_in_the_range_of_schema_or_description() -> None:
    measured = seen(photo("cat.jpg"))
    number = {"type": "NUMBER", "description": "From 0 to 100."}
    assert 50 < answer(number | {"description": "Quality, from 60 to 100."}, measured) <= 100
    schema = {"type": "OBJECT", "properties": {"brightness": number, "stars": {"type": "INTEGER"}}}
    found = answer(schema, measured)
    assert found["brightness"] == pytest.approx(100 * measured.brightness, abs=0.01)
    assert found["stars"] in range(1, 6)


def test_answers_depend_on_request_and_seed_only() -> None:
    measured = seen(photo("cat.jpg"))
    schema = enum(*(f"kind_{number}" for number in range(50)))
    answers = {seed: fill(schema, "Look.", [measured], seed) for seed in range(10)}
    assert answers == {seed: fill(schema, "Look.", [measured], seed) for seed in range(10)}
    assert len(set(answers.values())) > 3


def test_properties_follow_the_order_of_the_schema() -> None:
    properties = {name: {"type": "string"} for name in "abcd"}
    measured = seen(photo("cat.jpg"))
    for key in ("propertyOrdering", "property_ordering"):
        found = answer({"type": "object", "properties": properties, key: ["c", "a", "d", "b"]}, measured)
        assert list(found) == ["c", "a", "d", "b"]


# -- any schema --------------------------------------------------------------------------------------------

FIELDS = "sharpness exposure colour quality_score usable is_dark count text notes confidence material isBlurry x"
VALUES = (
    "sharp soft blurry dark normal bright good fair poor low medium high none yes no true false red blue grey "
    "not_visible other wood steel A-1 ÄÖ usable unusable"
)
NAMES, WORDS = (st.sampled_from(text.split()) for text in (FIELDS, VALUES))
BOUNDS = st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e308, 1e308, allow_nan=False))


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "STRING"}
    how = draw(st.integers(0, 3))
    if how == 1:
        schema["enum"] = draw(st.lists(WORDS, min_size=1, max_size=5, unique=True))
    elif how == 2:
        schema["format"] = draw(st.sampled_from(["date", "date-time", "duration", "time"]))
    elif how == 3:
        schema["maxLength"] = draw(st.integers(0, 30))
        schema["min_length"] = draw(st.integers(0, schema["maxLength"]))
    return schema


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    whole = draw(st.booleans())
    low, high = sorted(draw(st.tuples(*([st.integers(-(2**62), 2**62)] * 2 if whole else [BOUNDS, BOUNDS]))))
    schema: dict[str, Any] = {"type": "INTEGER" if whole else "NUMBER"}
    if draw(st.booleans()):
        schema["minimum"] = low
    if draw(st.booleans()):
        schema["maximum"] = high
    return schema


def lists(items: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def made(item: dict[str, Any], few: int, more: int, *, snake: bool) -> dict[str, Any]:
        keys = ("min_items", "max_items") if snake else ("minItems", "maxItems")
        return {"type": "ARRAY", "items": item, keys[0]: few, keys[1]: few + more}

    return st.builds(made, items, st.integers(0, 4), st.integers(0, 4), snake=st.booleans())


def objects(items: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES, items, max_size=4).map(
        lambda properties: {"type": "OBJECT", "properties": properties, "required": list(properties)}
    )


def with_choices(items: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    options = st.lists(st.one_of(items, st.just({"type": "NULL"})), min_size=1, max_size=3)
    return st.builds(lambda key, found: {key: found}, st.sampled_from(["anyOf", "any_of"]), options)


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"nullable": True}


def lower(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | ({"type": schema["type"].lower()} if "type" in schema else {})


LEAVES = st.one_of(strings(), numbers(), st.just({"type": "BOOLEAN"}))
SCHEMAS = st.recursive(
    LEAVES,
    lambda items: st.one_of(lists(items), objects(items), with_choices(items), items.map(nullable), items.map(lower)),
    max_leaves=12,
)
SEEN = [seen(photo("cat.jpg")), seen(darkened(photo("cat.jpg"))), seen(Image.new("RGB", (5, 5)))]


def fits(schema: dict[str, Any], value: Any) -> bool:
    """A validator of its own, as strict as Gemini's documentation."""
    options = schema.get("anyOf") or schema.get("any_of")
    if options:
        return (value is None and bool(schema.get("nullable"))) or any(fits(option, value) for option in options)
    kind = schema["type"].upper()
    if value is None:
        return kind == "NULL" or bool(schema.get("nullable", False))
    if kind == "OBJECT":
        properties = schema["properties"]
        known = isinstance(value, dict) and set(schema["required"]) <= set(value) <= set(properties)
        return known and all(fits(properties[name], item) for name, item in value.items())
    if kind == "ARRAY":
        few, many = (
            int(schema.get(camel, schema.get(snake, 0)))
            for camel, snake in (("minItems", "min_items"), ("maxItems", "max_items"))
        )
        return isinstance(value, list) and few <= len(value) <= many and all(fits(schema["items"], x) for x in value)
    if kind == "BOOLEAN":
        return isinstance(value, bool)
    if kind == "STRING":
        long_enough = isinstance(value, str) and len(value) >= schema.get("min_length", 0)
        return long_enough and len(value) <= schema.get("maxLength", 10**6) and value in schema.get("enum", [value])
    right = isinstance(value, int) and not isinstance(value, bool)
    if kind == "NUMBER":
        right = right or isinstance(value, float)
    return right and bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


@settings(deadline=None, max_examples=300)
@given(schema=SCHEMAS, measured=st.lists(st.sampled_from(SEEN), max_size=3), seed=st.integers(0, 99))
def test_any_schema_gets_a_matching_answer(schema: dict[str, Any], measured: list[ImageStats], seed: int) -> None:
    text = fill(schema, "Look.", measured, seed)
    assert fits(schema, json.loads(text)), text
    assert text == fill(schema, "Look.", measured, seed)


@settings(deadline=None, max_examples=100)
@given(values=st.lists(WORDS, min_size=1, max_size=6, unique=True), name=NAMES, seed=st.integers(0, 9))
def test_any_enum_gets_one_of_its_values(values: list[str], name: str, seed: int) -> None:
    for measured in SEEN:
        assert answer(enum(*values, name=name), measured, seed=seed)[name] in values

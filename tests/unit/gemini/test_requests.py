"""Request bodies, exactly as they are sent, for every shipped task and every transport."""

import base64
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.paths import GOLDEN, TASK_DATA

from imagebeam.transforms.core.records import Image, Lane, Unit, UnitKind
from imagebeam.transforms.gemini.requests import ImagePart, build_request, lane_headers, render_prompt
from imagebeam.transforms.tasks.models_file import load_models
from imagebeam.transforms.tasks.task import PROMPT_FIELDS, Task, parse_task

MODELS = load_models((TASK_DATA / "models.yaml").read_text(encoding="utf-8"), "models.yaml")
LABELS = {"imagebeam_run": "r-1"}

IMAGES = (
    Image("o1:a", "gs://street/t1:p/o1:a.jpg", "2022-03-04T05:06:07Z", heading=90.4),
    Image("o1:b", "gs://street/t1:p/o1:b.png", "2024-05-06T07:08:09Z", heading=-137.5),
    Image("o1:c", "gs://street/t1:p/o1:c.jpg", "2025-09-10T11:12:13Z"),
)
POLE = Unit(
    "t1:p",
    UnitKind.ASSET,
    "d" * 64,
    IMAGES,
    asset_id="t1:p",
    asset_type="ASSET_CLASS_UTILITY_POLE",
    capture_time="2025-09-10T11:12:13Z",
)
SIGN = Unit(
    "o1:a",
    UnitKind.OBSERVATION,
    "e" * 64,
    IMAGES[:1],
    asset_id="t1:s",
    asset_type="ASSET_CLASS_ROAD_SIGN",
    capture_time="2022-03-04T05:06:07Z",
    latitude=46.9,
    longitude=7.4,
    extra={"district": "Länggasse", "checked": True, "empty": None},
)


def shipped(name: str) -> Task:
    text = (TASK_DATA / "tasks" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_task(text, source=name, default_model=MODELS.default)


def small(**keys: Any) -> Task:
    text = yaml.safe_dump({"name": "look", "prompt": "What is it?", **keys}, sort_keys=False)
    return parse_task(text, source="look.yaml", default_model=MODELS.default)


def parts_of(unit: Unit) -> list[ImagePart]:
    types = {"jpg": "image/jpeg", "png": "image/png"}
    return [ImagePart(types[str(image.uri)[-3:]], uri=image.uri) for image in unit.images]


def built(task: Task, unit: Unit, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return build_request(task, MODELS.profile(task.model), unit, parts_of(unit), LABELS if labels is None else labels)


# -- shipped tasks: golden files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unit"), [("describe", SIGN), ("image_quality", SIGN), ("road_sign", SIGN), ("utility_pole", POLE)]
)
def test_requests_of_shipped_tasks_match_golden_files(name: str, unit: Unit) -> None:
    golden = json.loads((GOLDEN / f"request_{name}.json").read_text(encoding="utf-8"))
    body = built(shipped(name), unit)
    assert body == golden
    ordering = body["generationConfig"].get("responseSchema", {}).get("propertyOrdering")
    assert ordering == golden["generationConfig"].get("responseSchema", {}).get("propertyOrdering")


# -- parts -------------------------------------------------------------------------------------------------


def test_single_image_precedes_the_text_without_a_label() -> None:
    assert built(small(), SIGN, {}) == {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"fileData": {"mimeType": "image/jpeg", "fileUri": "gs://street/t1:p/o1:a.jpg"}},
                    {"text": "What is it?"},
                ],
            }
        ]
    }


def test_each_of_several_images_follows_its_label() -> None:
    parts = built(small(unit="asset"), POLE)["contents"][0]["parts"]
    assert [part.get("text") for part in parts] == [
        "Image 1 of 3, captured 2022-03-04T05:06:07Z, camera heading 90 degrees:",
        None,
        "Image 2 of 3, captured 2024-05-06T07:08:09Z, camera heading -138 degrees:",
        None,
        "Image 3 of 3, captured 2025-09-10T11:12:13Z, camera heading unknown:",
        None,
        "What is it?",
    ]
    assert parts[3] == {"fileData": {"mimeType": "image/png", "fileUri": "gs://street/t1:p/o1:b.png"}}


def test_inline_bytes_are_base64() -> None:
    data = bytes(range(256))
    body = build_request(small(), MODELS.profile(MODELS.default), SIGN, [ImagePart("image/png", data=data)], LABELS)
    inline = body["contents"][0]["parts"][0]["inlineData"]
    assert inline["mimeType"] == "image/png"
    assert base64.b64decode(inline["data"], validate=True) == data


def test_rejects_a_wrong_number_of_image_parts() -> None:
    with pytest.raises(ValueError, match="1 image parts for 3 images of unit t1:p"):
        build_request(small(), MODELS.profile(MODELS.default), POLE, [ImagePart("image/png", uri="gs://b/x")], {})


@pytest.mark.parametrize("given_as", [{}, {"uri": "gs://b/x", "data": b"x"}])
def test_image_part_needs_either_uri_or_bytes(given_as: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either a URI or bytes"):
        ImagePart("image/png", **given_as)


# -- settings ----------------------------------------------------------------------------------------------


def config(task: Task) -> dict[str, Any]:
    sent: dict[str, Any] = built(task, SIGN).get("generationConfig", {})
    return sent


GENERATION = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_output_tokens": 99, "thinking": "low"}


def test_sends_sampling_to_a_model_that_supports_it() -> None:
    assert config(small(model="gemini-3.1-flash-lite", generation=GENERATION)) == {
        "temperature": 0.5,
        "topP": 0.9,
        "seed": 7,
        "maxOutputTokens": 99,
        "thinkingConfig": {"thinkingLevel": "LOW"},
    }


def test_omits_sampling_for_a_model_that_ignores_it() -> None:
    sent = config(small(model="gemini-3.5-flash-lite", generation=GENERATION))
    assert sent == {"seed": 7, "maxOutputTokens": 99, "thinkingConfig": {"thinkingLevel": "LOW"}}


def test_thinking_is_a_budget_before_gemini_3() -> None:
    assert config(small(model="gemini-2.5-flash", generation={"thinking": "minimal"})) == {
        "thinkingConfig": {"thinkingBudget": 0}
    }


@pytest.mark.parametrize(
    ("resolution", "for_all", "per_part"),
    [
        ("default", None, None),
        ("low", "MEDIA_RESOLUTION_LOW", None),
        ("medium", "MEDIA_RESOLUTION_MEDIUM", None),
        ("high", "MEDIA_RESOLUTION_HIGH", None),
        ("ultra_high", None, {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}),
    ],
)
def test_media_resolution_is_set_globally_or_per_part(
    resolution: str, for_all: str | None, per_part: dict[str, str] | None
) -> None:
    body = built(small(media_resolution=resolution), SIGN)
    assert body.get("generationConfig", {}).get("mediaResolution") == for_all
    assert body["contents"][0]["parts"][0].get("mediaResolution") == per_part


def test_flex_lane_has_documented_headers_and_online_lane_none() -> None:
    assert lane_headers(Lane.ONLINE) == {}
    assert lane_headers(Lane.FLEX) == {
        "X-Vertex-AI-LLM-Shared-Request-Type": "flex",
        "X-Vertex-AI-LLM-Request-Type": "shared",
    }
    with pytest.raises(ValueError, match="lane batch does not use HTTP calls"):
        lane_headers(Lane.BATCH)


# -- prompts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "unit", "text"),
    [
        ("{{unit_id}} {{asset_id}} {{asset_type}}", SIGN, "o1:a t1:s ASSET_CLASS_ROAD_SIGN"),
        ("{{capture_time}} {{ heading }}", SIGN, "2022-03-04T05:06:07Z 90"),
        ("{{latitude}},{{longitude}} {{image_count}}", SIGN, "46.9,7.4 1"),
        ("{{extra.district}} {{extra.checked}}", SIGN, "Länggasse true"),
        ("{{extra.empty}} {{extra.other}}", SIGN, "unknown unknown"),
        ("{{heading}} {{latitude}} {{image_count}}", POLE, "unknown unknown 3"),
        ('{"a": {"b": {{image_count}}}} {{"c": 1}}', SIGN, '{"a": {"b": 1}} {{"c": 1}}'),
    ],
)
def test_fills_prompt_fields_from_the_unit(prompt: str, unit: Unit, text: str) -> None:
    assert render_prompt(prompt, unit) == text


@given(st.text(max_size=30), st.sampled_from(PROMPT_FIELDS))
def test_does_not_expand_values_that_look_like_fields(value: str, field: str) -> None:
    unit = Unit("u", UnitKind.OBSERVATION, "d", IMAGES[:1], extra={"note": value + "{{" + field + "}}"})
    assert render_prompt("{{extra.note}}", unit) == value + "{{" + field + "}}"


# -- whatever the task -------------------------------------------------------------------------------------


def flaws(value: Any) -> list[str]:
    """What the import of a batch job refuses anywhere in a request."""
    if value is None or value == {} or value == []:
        return [repr(value)]
    if isinstance(value, dict):
        return [flaw for item in value.values() for flaw in flaws(item)]
    if isinstance(value, list):
        return [flaw for item in value for flaw in flaws(item)]
    return []


def shape(value: Any) -> Any:
    """The structure of a request without its values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


@given(
    st.fixed_dictionaries(
        {"unit": st.sampled_from(["observation", "asset"])},
        optional={
            "model": st.sampled_from(list(MODELS.profiles)),
            "system": st.just("Be brief."),
            "media_resolution": st.sampled_from(["default", "low", "ultra_high"]),
            "generation": st.fixed_dictionaries(
                {}, optional={"temperature": st.just(0), "seed": st.just(0), "thinking": st.just("low")}
            ),
            "schema": st.just({"type": "object", "properties": {"a": {"type": "boolean"}}}),
        },
    ),
    st.sampled_from([{}, LABELS]),
)
def test_requests_pass_the_lint_of_batch_jobs(keys: dict[str, Any], labels: dict[str, str]) -> None:
    task = small(**keys)
    unit = POLE if keys["unit"] == "asset" else SIGN
    body = built(task, unit, labels)
    assert flaws(body) == []
    assert json.loads(json.dumps(body)) == body
    other = Unit("o1:z", unit.unit_type, "f" * 64, unit.images)
    assert shape(built(task, other, labels)) == shape(body)

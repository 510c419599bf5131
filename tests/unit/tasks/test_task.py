"""Tasks: valid and invalid files, and what changes the version."""

import dataclasses
import hashlib
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.paths import TASK_DATA

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.tasks.task import Column, Task, parse_task

SHIPPED = sorted((TASK_DATA / "tasks").glob("*.yaml"))
POLE: dict[str, Any] = {
    "name": "pole",
    "description": "A pole.",
    "model": "gemini-3.5-flash-lite",
    "prompt": "Inspect this {{asset_type}}.",
    "system": "Be brief.",
    "unit": "asset",
    "max_images": 3,
    "schema": {
        "type": "object",
        "properties": {
            "condition": {"type": "string", "enum": ["good", "bad"]},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "defects": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
        },
        "required": ["condition", "confidence"],
    },
    "generation": {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "max_output_tokens": 256,
        "thinking": "low",
    },
    "media_resolution": "medium",
    "image": {"crop": "bbox", "padding": 0.1, "max_side": 1024, "quality": 85},
}


def parsed(document: dict[str, Any]) -> Task:
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return parse_task(text, source="pole.yaml", default_model="gemini-3.5-flash-lite")


def changed(path: str, value: object) -> dict[str, Any]:
    """POLE with one key set; a value of ... removes it."""
    document: dict[str, Any] = json.loads(json.dumps(POLE))
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_task(text, source="pole.yaml", default_model="gemini-3.5-flash-lite")
    message = str(caught.value)
    assert message.startswith("pole.yaml")
    assert "\n" not in message
    return message


def refused(document: dict[str, Any]) -> str:
    return refusal(yaml.safe_dump(document, sort_keys=False))


def test_reads_a_complete_task() -> None:
    task = parsed(POLE)
    assert (task.name, task.unit, task.max_images) == ("pole", "asset", 3)
    assert task.prompt_fields() == ("asset_type",)
    assert task.schema == {
        "type": "OBJECT",
        "properties": {
            "condition": {"type": "STRING", "enum": ["good", "bad"]},
            "confidence": {"type": "NUMBER", "minimum": 0.0, "maximum": 1.0},
            "defects": {"type": "ARRAY", "items": {"type": "STRING"}, "maxItems": 4},
        },
        "required": ["condition", "confidence"],
        "propertyOrdering": ["condition", "confidence", "defects"],
    }
    assert task.image.changes_images


def test_name_and_prompt_are_sufficient() -> None:
    task = parse_task("name: look\nprompt: What is it?\n", source="t", default_model="some-model")
    assert (task.model, task.unit, task.max_images, task.schema) == ("some-model", "observation", 1, None)
    assert task.columns() == (Column("text", "STRING", "$.text", "REQUIRED"),)
    assert not task.image.changes_images


def test_types_ignore_case() -> None:
    upper = json.loads(json.dumps(POLE["schema"]).replace('"string"', '"STRING"'))
    assert parsed({**POLE, "schema": upper}).version == parsed(POLE).version


def test_task_can_be_pickled() -> None:
    task = parsed(POLE)
    assert pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_tasks_are_valid_and_named_like_their_files(path: Path) -> None:
    task = parse_task(path.read_text(encoding="utf-8"), source=path.name, default_model="m")
    assert task.name == path.stem
    assert task.description
    assert task.columns()


def test_ships_four_tasks() -> None:
    assert [path.stem for path in SHIPPED] == ["describe", "image_quality", "road_sign", "utility_pole"]


# -- columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "column_type", "mode"),
    [
        ({"type": "string"}, "STRING", "NULLABLE"),
        ({"type": "number"}, "FLOAT64", "NULLABLE"),
        ({"type": "integer"}, "INT64", "NULLABLE"),
        ({"type": "boolean"}, "BOOL", "NULLABLE"),
        ({"type": "array", "items": {"type": "string"}}, "ARRAY<STRING>", "REPEATED"),
        ({"type": "array", "items": {"type": "integer"}}, "ARRAY<INT64>", "REPEATED"),
        ({"type": "array", "items": {"type": "string", "nullable": True}}, "JSON", "NULLABLE"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "JSON", "NULLABLE"),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, "JSON", "NULLABLE"),
    ],
)
def test_maps_properties_to_typed_columns(schema: dict[str, Any], column_type: str, mode: str) -> None:
    task = parsed({**POLE, "schema": {"type": "object", "properties": {"it": schema}}})
    assert task.columns() == (Column("it", column_type, "$.it", mode),)  # type: ignore[arg-type]


def test_required_columns_are_in_every_answer() -> None:
    properties = {"a": {"type": "string"}, "b": {"type": "string", "nullable": True}, "c": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["a", "b"]}
    modes = [column.mode for column in parsed({**POLE, "schema": schema}).columns()]
    assert modes == ["REQUIRED", "NULLABLE", "NULLABLE"]


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", ..., "name: is missing"),
        ("name", "Pole", "name: 'Pole' must be at most 48 lowercase"),
        ("name", "1pole", "must be at most 48 lowercase"),
        ("name", "p" * 49, "at most 48"),
        ("name", "outcomes", "is the name of a table or view"),
        ("name", "dead_letters", "is the name of a table or view"),
        ("name", "embeddings_x", "is the name of a table or view"),
        ("name", "pole_history", "is the name of a table or view"),
        ("name", 7, "name: must be text, not a number (quote it)"),
        ("prompt", ..., "prompt: is missing"),
        ("prompt", None, "prompt: has no value"),
        ("prompt", "  ", "prompt: must not be empty"),
        ("prompt", "At {{capture_tme}}", "unknown field {{capture_tme}}; did you mean capture_time?"),
        ("prompt", "At {{nothing}}", "known fields are unit_id, asset_id"),
        ("prompt", "At {{extra.}}", "unknown field {{extra.}}"),
        ("prompt", "At {{capture time}}", "did you mean capture_time?"),
        ("system", "For {{asset_type}}", "system: cannot have fields, because"),
        ("unit", "assets", "unit: 'assets' is not one of observation, asset; did you mean asset?"),
        ("max_images", 11, "max_images: must be a whole number from 1 to 10, not 11"),
        ("max_images", True, "max_images: must be a whole number"),
        ("generation.temprature", 1, "generation.temprature: unknown key; did you mean temperature?"),
        ("generation.temperature", 3, "generation.temperature: must be a number from 0 to 2, not 3"),
        ("generation.temperature", "0", "must be a number"),
        ("generation.temperature", float("nan"), "must be a number"),
        ("generation.seed", -1, "generation.seed: must be a whole number"),
        ("generation.max_output_tokens", 0, "must be a whole number from 1"),
        ("generation.thinking", "minmal", "generation.thinking: 'minmal' is neither one of"),
        ("generation.thinking", "minmal", "did you mean minimal?"),
        ("generation", "low", "generation: must be keys with values, not text"),
        ("generation", None, "generation: must be keys with values, not nothing"),
        ("media_resolution", "ultra", "media_resolution: 'ultra' is not one of"),
        ("image.crop", "box", "image.crop: 'box' is not one of none, bbox; did you mean bbox?"),
        ("image.max_side", 10, "image.max_side: must be a whole number from 64 to 8192"),
        ("image.padding", 2, "image.padding: must be a number from 0 to 1"),
        ("image.crop", "none", "image.padding: has no effect without `crop: bbox`"),
        ("descripton", "x", "descripton: unknown key; did you mean description?"),
        ("schema", {}, "schema.type: is missing"),
        ("schema", "text", "schema: must be keys with values, not text"),
        ("schema", {"type": "string"}, "schema.type: the answer must be an object"),
        ("schema", {"type": "object"}, "schema.properties: an object needs at least one property"),
        ("schema.required", ["conditon"], "schema.required: conditon is not a property; did you mean condition?"),
        ("schema.required", ["condition", "condition"], "contains a name twice"),
        ("schema.propertyOrdering", ["condition"], "must list every property"),
        ("schema.oneOf", [], "schema.oneOf: Gemini does not support oneOf"),
        ("schema.anyOf", [], "`nullable: true`, or an enum"),
        ("schema.allOf", [], "Gemini does not support allOf"),
        ("schema.$defs", {}, "inline the referenced schema"),
        ("schema.additionalProperties", False, "remove it"),
        ("schema.properties.condition", {"$ref": "#/x"}, "schema.properties.condition.$ref: Gemini does not"),
        ("schema.properties.condition.type", ["string", "null"], "one type, not a list; for null add `nullable: true`"),
        ("schema.properties.condition.type", "null", "null is not a type"),
        ("schema.properties.condition.type", "int", "did you mean integer?"),
        ("schema.properties.condition.type", "strng", "did you mean string?"),
        ("schema.properties.condition.type", ..., "an enum needs `type: string`"),
        ("schema.properties.confidence.type", ..., "use one of string, number"),
        ("schema.properties.condition.enum", ["a", None], "null is not supported: remove it, and add `nullable"),
        ("schema.properties.condition.enum", ["a", False], "put it in quotes"),
        ("schema.properties.condition.enum", [1, 2], "1 is not a string"),
        ("schema.properties.condition.enum", ["a", ""], "an empty value is not supported"),
        ("schema.properties.condition.enum", ["a", "a"], "contains a value twice"),
        ("schema.properties.condition.enum", [], "a list of at least one"),
        ("schema.properties.condition.enum", "good", "a list of at least one"),
        ("schema.properties.condition.nullable", "yes", "nullable: must be true or false"),
        ("schema.properties.condition.pattern", "x", "Gemini does not support pattern"),
        ("schema.properties.condition.minimum", 1, "schema.properties.condition.minimum: unknown key"),
        ("schema.properties.condition.format", "email", "format: 'email' is not one of date"),
        ("schema.properties.confidence.enum", [1], "schema.properties.confidence.enum: unknown key"),
        ("schema.properties.confidence.minimum", 2, "2 is greater than maximum, which is 1"),
        ("schema.properties.confidence.minimum", float("inf"), "minimum: must be a number"),
        ("schema.properties.defects.items", ..., "schema.properties.defects.items: is missing"),
        ("schema.properties.defects.items", {}, "schema.properties.defects.items: is missing"),
        ("schema.properties.defects.minItems", 5, "5 is greater than maxItems, which is 4"),
        ("schema.properties.x", {"type": "object", "properties": {}}, "an object needs at least one property"),
        ("schema.properties.x", "string", "schema.properties.x: must be keys with values"),
        ("schema.properties.x", None, "schema.properties.x: must be keys with values, not nothing"),
        ("schema.properties.unit_id", {"type": "string"}, "the view already has a column of that name"),
        ("schema.properties.Unit_Id", {"type": "string"}, "the view already has a column of that name"),
        ("schema.properties._version", {"type": "string"}, "start with a letter"),
        ("schema.properties.is it", {"type": "string"}, "letters, digits and _"),
        ("schema.properties.Condition", {"type": "string"}, "differs from condition only in case"),
    ],
)
def test_invalid_values_are_errors_with_path_and_fix(path: str, value: object, message: str) -> None:
    assert message in refused(changed(path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pole.yaml: expected keys with values"),
        ("- a", "not a list"),
        ("name: [", "line 1: not YAML"),
        ("name: a\nname: b\nprompt: x", "line 2: not YAML: duplicate key name"),
        ("name: a\n  prompt: x", "not YAML"),
        ("a: !!python/object:os.system {}", "not YAML"),
        ("\x00", "not YAML"),
        ("name: pole\nprompt: x\nmax_images: 2", "max_images: requires `unit: asset`"),
        ("name: pole\nprompt: x\nimage: {quality: 80}", "quality: has no effect"),
        ("name: pole\nprompt: x\n1: 2", "1: unknown key"),
        ("[1]: 2", "not YAML"),
        ("a: 2026-13-45", "not YAML"),
        ('a: !!int ""', "not YAML"),
        ("a: " + "[" * 5000, "not YAML"),
    ],
)
def test_rejects_invalid_files_in_one_line(text: str, message: str) -> None:
    assert message in refusal(text)


def test_rejects_schemas_with_more_than_five_levels() -> None:
    def nested(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(levels - 1):
            schema = {"type": "object", "properties": {"a": schema}}
        return schema

    assert parsed({**POLE, "schema": nested(5)}).columns()[0].bigquery_type == "JSON"
    assert "deeper than 5 levels" in refused({**POLE, "schema": nested(6)})


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ('Answer like {"a": {"b": 1}}', ()),
        ('Answer like {{"a": 1}} or {{}} or {{ "b" }}', ()),
        ("{{capture_time}} {{ heading }} {{capture_time}}", ("capture_time", "heading")),
        ("{{extra.district_1}}", ("extra.district_1",)),
        ("{capture_time}", ()),
    ],
)
def test_prompt_fields_are_words_in_double_braces_but_not_json(prompt: str, fields: tuple[str, ...]) -> None:
    assert parsed({**POLE, "prompt": prompt}).prompt_fields() == fields


# -- version -----------------------------------------------------------------------------------------------


def test_version_is_the_hash_of_the_definition() -> None:
    task = parsed(POLE)
    text = json.dumps(task.definition(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert task.version == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_version_is_stable_across_machines_and_releases() -> None:
    """A changed hash makes every answer that people paid for outdated: change REQUEST_FORMAT on purpose only."""
    assert parsed(POLE).version == "9bc18fa67279"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model", "gemini-3.1-flash-lite"),
        ("prompt", "Inspect that {{asset_type}}."),
        ("system", "Be long."),
        ("system", ...),
        ("max_images", 4),
        ("schema", ...),
        ("schema.required", ["condition"]),
        ("schema.properties.condition.enum", ["bad", "good"]),
        ("schema.properties.condition.description", "How is it?"),
        ("schema.properties.condition.nullable", True),
        ("schema.properties.confidence.maximum", 2),
        ("schema.properties.more", {"type": "string"}),
        ("generation.temperature", 0.6),
        ("generation.top_p", ...),
        ("generation.seed", 8),
        ("generation.max_output_tokens", 512),
        ("generation.thinking", "high"),
        ("generation.thinking", 100),
        ("media_resolution", "low"),
        ("image.padding", 0.2),
        ("image.max_side", 2048),
        ("image.quality", 84),
        ("image", ...),
    ],
)
def test_version_changes_with_everything_that_can_change_an_answer(path: str, value: object) -> None:
    assert parsed(changed(path, value)).version != parsed(POLE).version


def test_version_changes_with_the_unit() -> None:
    observation = changed("max_images", ...)
    observation["unit"] = "observation"
    one = {**observation, "unit": "asset", "max_images": 1}
    assert parsed(observation).version != parsed(one).version


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("description", "Another text."),
        ("description", ...),
        ("name", "other_name"),
        ("model", ...),  # the default is the same one
        ("prompt", "Inspect this {{asset_type}}.\n\n"),
        ("schema.required", ["confidence", "condition"]),
        ("schema.properties.condition.nullable", False),
        ("schema.properties.condition.type", "STRING"),
        ("schema.properties.confidence.minimum", 0.0),
        ("schema.propertyOrdering", ["condition", "confidence", "defects"]),
    ],
)
def test_version_ignores_what_cannot_change_an_answer(path: str, value: object) -> None:
    assert parsed(changed(path, value)).version == parsed(POLE).version


def test_version_changes_with_the_order_of_properties() -> None:
    properties = dict(reversed(POLE["schema"]["properties"].items()))
    turned = {**POLE, "schema": {**POLE["schema"], "properties": properties}}
    assert parsed(turned).version != parsed(POLE).version
    said = {**turned, "schema": {**turned["schema"], "propertyOrdering": list(POLE["schema"]["properties"])}}
    assert parsed(said).version == parsed(POLE).version


PROPERTIES = st.dictionaries(
    st.sampled_from(["kind", "state", "count", "note"]),
    st.one_of(
        st.builds(
            lambda values, nullable: {"type": "string", "enum": values, "nullable": nullable},
            st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True),
            st.booleans(),
        ),
        st.builds(lambda low: {"type": "number", "minimum": low}, st.integers(-3, 3)),
        st.builds(lambda text: {"type": "boolean", "description": text}, st.sampled_from(["x", "y"])),
    ),
    min_size=1,
)
DOCUMENTS = st.fixed_dictionaries(
    {"name": st.just("pole"), "prompt": st.sampled_from(["Look.", "Look at {{asset_type}}."])},
    optional={
        "description": st.sampled_from(["one", "two"]),
        "system": st.sampled_from(["Be brief.", "Be kind."]),
        "model": st.sampled_from(["gemini-3.5-flash-lite", "gemini-3.8-flash"]),
        "unit": st.sampled_from(["observation", "asset"]),
        "media_resolution": st.sampled_from(["default", "low"]),
        "generation": st.fixed_dictionaries(
            {},
            optional={
                "temperature": st.sampled_from([0, 0.0, 1, 1.5]),
                "seed": st.integers(0, 2),
                "thinking": st.sampled_from(["low", "high", 0, 512]),
            },
        ),
        "image": st.fixed_dictionaries({}, optional={"max_side": st.sampled_from([64, 100])}),
        "schema": st.builds(lambda properties: {"type": "object", "properties": properties}, PROPERTIES),
    },
)


def meaning(task: Task) -> dict[str, Any]:
    """What is sent, without the bookkeeping; an independent second opinion of what makes a version."""
    fields = dataclasses.asdict(task)
    for key in ("name", "description", "version"):
        del fields[key]
    return fields


@given(DOCUMENTS, DOCUMENTS)
def test_versions_are_equal_if_and_only_if_requests_are(one: dict[str, Any], two: dict[str, Any]) -> None:
    first, second = parsed(one), parsed(two)
    assert (first.version == second.version) == (meaning(first) == meaning(second))


def shuffled(document: Any, order: random.Random, *, keep: bool = False) -> Any:
    """The same document with its keys in another order; only the properties of a schema keep theirs."""
    if not isinstance(document, dict):
        return document
    keys = list(document)
    if not keep:
        order.shuffle(keys)
    return {key: shuffled(document[key], order, keep=key == "properties") for key in keys}


@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_version_ignores_the_order_of_keys(document: dict[str, Any], order: random.Random) -> None:
    assert parsed(shuffled(document, order)).version == parsed(document).version


@given(DOCUMENTS, st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1).filter(str.strip))
def test_version_ignores_the_description(document: dict[str, Any], description: str) -> None:
    assert parsed({**document, "description": description}).version == parsed(document).version


@given(st.text(max_size=60))
def test_any_text_is_a_task_or_a_one_line_error(text: str) -> None:
    try:
        parse_task(text, source="pole.yaml", default_model="m")
    except UserError as error:
        message = str(error)
    else:
        message = "pole.yaml"
    assert message.startswith("pole.yaml")
    assert "\n" not in message

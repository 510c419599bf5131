"""Lines of a batch job: the same requests as online, unique keys, files within the limits."""

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.paths import TASK_DATA

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.images import ImageError
from imagebeam.transforms.core.records import Image, ImageReason, Unit, UnitKind
from imagebeam.transforms.gemini.batch_requests import (
    MAX_BYTES,
    MAX_LINES,
    ShardLimits,
    key_of,
    line_template,
    lint,
    named_types,
)
from imagebeam.transforms.gemini.requests import ImagePart, build_request
from imagebeam.transforms.tasks.models_file import load_models
from imagebeam.transforms.tasks.task import Task, parse_task
from imagebeam.transforms.tasks.task_keys import MEDIA_RESOLUTIONS

MODELS = load_models((TASK_DATA / "models.yaml").read_text(encoding="utf-8"), "models.yaml")
SHIPPED = sorted(path.stem for path in (TASK_DATA / "tasks").glob("*.yaml"))
LABELS = {"imagebeam_run": "r-1", "type": "batch", "definitions": "none"}
MIMES = ("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif", "image/avif")

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ANY_IMAGES = st.lists(
    st.builds(
        Image,
        ANY_TEXT,
        ANY_TEXT,
        st.none() | ANY_TEXT,
        heading=st.none() | st.floats(-180, 180),
    ),
    min_size=1,
    max_size=4,
).map(tuple)
ANY_UNIT = st.builds(
    Unit,
    ANY_TEXT,
    st.just("asset"),
    ANY_TEXT,
    ANY_IMAGES,
    asset_type=st.none() | ANY_TEXT,
    latitude=st.none() | st.floats(-90, 90),
    extra=st.dictionaries(st.just("district"), st.none() | ANY_TEXT | st.booleans()),
)


def task_of(**keys: Any) -> Task:
    text = yaml.safe_dump({"name": "look", "prompt": "What is it?", **keys}, sort_keys=False)
    return parse_task(text, source="look.yaml", default_model=MODELS.default)


def shipped(name: str) -> Task:
    text = (TASK_DATA / "tasks" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_task(text, source=name, default_model=MODELS.default)


def same_as_online(task: Task, unit: Unit, mimes: list[str], labels: dict[str, str]) -> None:
    profile = MODELS.profile(task.model)
    parts = [ImagePart(mime, uri=image.uri) for mime, image in zip(mimes, unit.images, strict=True)]
    template = line_template(task, profile, labels)
    line = template.line("k-1", unit, mimes)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    online = build_request(task, profile, unit, parts, labels)
    assert orjson.loads(line) == {"custom_id": "k-1", "request": online}
    assert orjson.loads(template.line("k", unit, mimes))["request"] == online
    assert list(lint(online)) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_line_of_a_shipped_task_has_the_online_request(name: str) -> None:
    images = (Image("o1:a", "gs://street/o1:a.jpg", "2025-01-02T03:04:05Z", 12.5), Image("o1:b", 'gs://street/"ö.png'))
    task = shipped(name)
    unit = Unit("t1:p", task.unit, "d" * 64, images if task.unit == "asset" else images[:1], asset_type="POLE")
    same_as_online(task, unit, ["image/jpeg", "image/png"][: len(unit.images)], LABELS)


@given(
    unit=ANY_UNIT,
    prompt=st.sampled_from(["Look.", "{{unit_id}} of {{extra.district}}", 'a "{{heading}}" \n {{latitude}} ß'])
    | ANY_TEXT.filter(lambda text: text.strip()).map(lambda text: f"Look: {text}"),
    resolution=st.sampled_from(MEDIA_RESOLUTIONS),
    labels=st.sampled_from([{}, LABELS]),
    data=st.data(),
)
def test_line_of_any_unit_has_the_online_request(
    unit: Unit, prompt: str, resolution: str, labels: dict[str, str], data: st.DataObject
) -> None:
    mimes = data.draw(st.lists(st.sampled_from(MIMES), min_size=len(unit.images), max_size=len(unit.images)))
    task = Task("look", "", MODELS.default, prompt, system=data.draw(st.none() | st.just("Be brief.")))
    same_as_online(task, unit, mimes, labels)
    graded = Task("look", "", MODELS.default, prompt, media_resolution=resolution)
    same_as_online(graded, unit, mimes, labels)


def test_replaces_half_a_surrogate_pair() -> None:
    template = line_template(task_of(), MODELS.profile(MODELS.default), {})
    unit = Unit("o1:a", UnitKind.OBSERVATION, "d", (Image("o1:a", "gs://b/\ud800x.jpg"),))
    line = orjson.loads(template.line("k-1", unit, ["image/jpeg"]))
    assert line["request"]["contents"][0]["parts"][0]["fileData"]["fileUri"] == "gs://b/\ufffdx.jpg"


def test_template_can_be_pickled() -> None:
    template = line_template(task_of(), MODELS.profile(MODELS.default), LABELS)
    assert pickle.loads(pickle.dumps(template)) == template


@pytest.mark.parametrize(
    ("images", "mimes"),
    [((Image("o1:a", None),), ["image/jpeg"]), ((Image("o1:a", "gs://b/a.jpg"),), []), ((), [])],
)
def test_rejects_a_unit_without_images_or_types(images: tuple[Image, ...], mimes: list[str]) -> None:
    template = line_template(task_of(), MODELS.profile(MODELS.default), {})
    with pytest.raises(ValueError, match="o1:a"):
        template.line("k-1", Unit("o1:a", UnitKind.OBSERVATION, "d", images), mimes)


def test_uses_the_types_of_image_names() -> None:
    images = tuple(Image("o", f"gs://bkt/o1:aa.{suffix}") for suffix in ("JPG", "png", "dat"))
    assert named_types(Unit("o1:a", UnitKind.ASSET, "d", images)) == ("image/jpeg", "image/png", None)


@pytest.mark.parametrize("images", [(), (Image("o", None),), (Image("o", "https://b/a.jpg"),), (Image("o", "gs://b"),)])
def test_rejects_a_unit_without_readable_images(images: tuple[Image, ...]) -> None:
    with pytest.raises(ImageError) as caught:
        named_types(Unit("o1:a", UnitKind.OBSERVATION, "d", images))
    assert caught.value.reason is ImageReason.NO_URI


def test_rejects_a_task_that_changes_its_images() -> None:
    with pytest.raises(UserError, match=r"by URI: use --lane=flex, which costs the same"):
        line_template(task_of(image={"max_side": 512}), MODELS.profile(MODELS.default), {})


def test_rejects_a_template_that_the_import_would_reject() -> None:
    task = Task("look", "", MODELS.default, "Look.", schema={"type": "OBJECT", "properties": {}})
    with pytest.raises(UserError, match=r"generationConfig\.responseSchema\.properties: an empty object"):
        line_template(task, MODELS.profile(MODELS.default), {})


# -- keys --------------------------------------------------------------------------------------------------


def test_key_is_stable() -> None:
    # Files of a job that was submitted by an older release must still match.
    assert key_of("o1:a", "d" * 64, "0123456789ab") == "k-93bf82b1db6db85a0b09074e5062186e"


HEX = st.text("0123456789abcdef")


@given(st.tuples(ANY_TEXT, HEX, HEX), st.tuples(ANY_TEXT, HEX, HEX))
def test_keys_are_equal_only_for_equal_inputs_and_versions(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (key_of(*one) == key_of(*other)) == (one == other)


def test_key_separates_its_parts() -> None:
    assert len({key_of("c", "b", "a"), key_of("", "bc", "a"), key_of("c", "", "ab"), key_of("b\0c", "", "a")}) == 4


# -- shards ------------------------------------------------------------------------------------------------


def shard_numbers(sizes: Iterable[int], limits: ShardLimits) -> Iterator[int]:
    """Fill shards as :mod:`build_batch_requests` does; the number of the shard of each line, from 0."""
    shard = lines = used = 0
    for size in sizes:
        if limits.is_full(lines, used, size):
            shard, lines, used = shard + 1, 0, 0
        lines += 1
        used += size
        yield shard


@given(st.lists(st.integers(1, 50)), st.integers(1, 7), st.integers(50, 200))
def test_fills_shards_in_order_up_to_their_limits(sizes: list[int], lines: int, size: int) -> None:
    numbers = list(shard_numbers(sizes, ShardLimits(lines, size)))
    assert len(numbers) == len(sizes)
    assert numbers == sorted(numbers)
    assert sorted(set(numbers)) == list(range(len(set(numbers))))
    for number in set(numbers):
        inside = [length for length, shard in zip(sizes, numbers, strict=True) if shard == number]
        after = [length for length, shard in zip(sizes, numbers, strict=True) if shard == number + 1]
        assert len(inside) <= lines
        assert sum(inside) <= size
        # Nothing is cut without need: one job of 200,000 beats many small ones.
        assert not after or len(inside) == lines or sum(inside) + after[0] > size


def test_default_limits_are_those_of_a_job() -> None:
    assert ShardLimits() == ShardLimits(200_000, MAX_BYTES)
    numbers = list(shard_numbers([700] * 400_001, ShardLimits()))
    assert [numbers.count(shard) for shard in range(3)] == [200_000, 200_000, 1]


def test_rejects_a_line_larger_than_a_shard() -> None:
    with pytest.raises(UserError, match="a request has 101 bytes; the maximum of an input file is 100"):
        list(shard_numbers([100, 101], ShardLimits(10, 100)))


@pytest.mark.parametrize(("lines", "size"), [(0, 1), (MAX_LINES + 1, 1), (1, 0), (1, MAX_BYTES + 1)])
def test_rejects_limits_beyond_those_of_the_service(lines: int, size: int) -> None:
    with pytest.raises(UserError, match="batch job"):
        ShardLimits(lines, size)


# -- lint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "the request: an empty object"),
        ({"tools": [{"urlContext": {}}]}, "tools[0].urlContext: an empty object"),
        ({"safetySettings": []}, "safetySettings: an empty list"),
        ({"a": {"b": None}}, "a.b: null"),
        ({"s": {"$ref": "#/x"}}, "s.$ref: inline the referenced schema"),
        ({"s": {"$defs": {"x": 1}}}, "s.$defs: inline the referenced schema"),
        ({"s": {"type": ["string", "null"]}}, "s.type: a list of types: use one type and nullable"),
        ({"s": {"enum": ["a", None]}}, "s.enum[1]: null"),
        ({"s": {"enum": ["a", 1]}}, "s.enum: items of different structure"),
        ({"s": {"anyOf": [{"type": "STRING"}]}}, "s.anyOf: use one type with nullable, or an enum"),
        ({"s": [{"a": 1}, {"b": 1}]}, "s: items of different structure"),
        ({"g": {"responseJsonSchema": {"type": "object"}}}, "g.responseJsonSchema: use responseSchema"),
        ({"parts": [{"inlineData": {"data": "a"}}]}, "parts[0].inlineData: a batch job reads images by URI"),
        ({"s": {"type_": "STRING"}}, "s.type_: use type"),
        ({"t": float("nan")}, "t: nan is not a JSON number"),
        ({"t": float("inf")}, "t: inf is not a JSON number"),
        ({"t": b"x"}, "t: bytes is not a JSON value"),
        ({1: "x"}, "the request: 1 is not a string key"),
    ],
)
def test_lint_reports_problems(body: Any, expected: str) -> None:
    assert expected in lint(body)


@pytest.mark.parametrize(
    "body",
    [
        {"contents": [{"role": "user", "parts": [{"fileData": {"fileUri": "gs://b/a"}}, {"text": "x"}]}]},
        {"s": {"type": "OBJECT", "properties": {"anyOf": {"type": "STRING"}, "inlineData": {"type": "STRING"}}}},
        {"s": {"properties": {"properties": {"type": "OBJECT", "properties": {"$ref": {"type": "STRING"}}}}}},
        {"labels": {"definitions": "x"}},
        {"a": 0, "b": False, "c": ""},
    ],
)
def test_lint_accepts_valid_requests(body: Any) -> None:
    assert list(lint(body)) == []


@given(
    st.recursive(
        st.none() | st.text() | st.floats() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_lint_accepts_any_value_as_input(body: Any) -> None:
    assert all(isinstance(problem, str) for problem in lint(body))

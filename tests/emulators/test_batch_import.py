"""How the local batch service imports lines, filters jobs and counts: the parts that need no server."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.emulators.batch.answers import GenerateHandler
from imagebeam.emulators.batch.data.filter import parse_filter
from imagebeam.emulators.batch.data.importer import JobImportError, import_lines
from imagebeam.emulators.batch.data.rows import InputRow, RowRunner
from imagebeam.emulators.batch.faults import JobFaults, Limits
from imagebeam.emulators.batch.templates import TemplateReader, read_line
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.faults import VertexFaults
from imagebeam.emulators.vertex.generate.images import ImageReader
from imagebeam.emulators.vertex.models import MODELS

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
URIS = st.one_of(NAMES.map("gs://b/{}".format), NAMES, st.sampled_from(["gs://b/1.jpg", "gs://", "imagebeam-hole-0-"]))


@st.composite
def lines(draw: st.DrawFn) -> dict[str, Any]:
    """Lines of the kinds that people write: spelt in two ways, with one or two images, or none."""
    uri, mime = draw(st.sampled_from([("fileUri", "mimeType"), ("file_uri", "mime_type")]))
    data = "fileData" if uri == "fileUri" else "file_data"
    parts: list[Any] = [{data: {uri: draw(URIS), mime: "image/jpeg"}} for _ in range(draw(st.integers(0, 2)))]
    parts.append({"text": draw(st.sampled_from(["?", 'say "key": "x"', '{"fileUri":"gs://a/b"}', "Ümlaut"]))})
    request: dict[str, Any] = {"contents": [{"role": "user", "parts": parts}]}
    if draw(st.booleans()):
        request["labels"] = {"key": draw(NAMES)}
    name = draw(st.sampled_from(["custom_id", "key", "unit"]))
    return {name: draw(NAMES), "request": request}


@given(st.lists(st.tuples(lines(), st.booleans()), min_size=1, max_size=8))
def test_template_reads_the_same_as_line_by_line(given_lines: list[tuple[dict[str, Any], bool]]) -> None:
    raws = [
        orjson.dumps(line, option=orjson.OPT_INDENT_2).replace(b"\n", b" ") if spaced else orjson.dumps(line)
        for line, spaced in given_lines
    ] * 2
    imported = import_lines(raws, Limits())
    reader = TemplateReader(imported.schema)
    for raw in raws:
        quick, slow = reader.read(raw), read_line(imported.schema, raw)
        assert orjson.dumps(quick.record, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
            slow.record, option=orjson.OPT_SORT_KEYS
        )
        assert quick.request == slow.request


@given(st.lists(lines(), min_size=1, max_size=8))
def test_imported_lines_have_the_same_fields(given_lines: list[dict[str, Any]]) -> None:
    raws = [orjson.dumps(line) for line in given_lines]
    shape = import_lines(raws, Limits()).schema
    rows = [read_line(shape, raw).record for raw in raws]
    assert len({tuple(row) for row in rows}) == 1
    assert len({tuple(row["request"]) for row in rows}) == 1
    for row, line in zip(rows, given_lines, strict=True):
        assert _without_nulls(row) == line


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def test_synthetic_answer_is_the_same_with_and_without_template(tmp_path: Any) -> None:
    raws = [
        orjson.dumps({"custom_id": f"k-{n}", "request": {"contents": [
            {"role": "user", "parts": [{"fileData": {"fileUri": f"gs://b/{n}", "mimeType": "image/png"}}]}
        ]}})
        for n in range(30)
    ]  # fmt: skip
    shape = import_lines(raws, Limits()).schema

    def answers(rows: list[InputRow]) -> list[Any]:
        faults = VertexFaults(FaultConfig(), 0)
        handler = GenerateHandler(ImageReader(ObjectStore(tmp_path)), faults, 0, synthetic=True)
        run = RowRunner(handler, MODELS["gemini-3.5-flash"], JobFaults(), "n", 0).run
        return [orjson.loads(orjson.dumps(line["response"]))["candidates"] for line in run(rows)[0]]

    reader = TemplateReader(shape)
    assert answers([reader.read(raw) for raw in raws]) == answers([read_line(shape, raw) for raw in raws])


def test_import_stops_at_the_first_invalid_line() -> None:
    good = b'{"request":{"contents":1}}\n'
    assert import_lines([good, b"\n", good], Limits()).rows == 2
    with pytest.raises(JobImportError, match=r"line 2, field request\.contents: it is string here and integer before"):
        import_lines([good, b'{"request":{"contents":"1"}}\n', b"{"], Limits())
    with pytest.raises(JobImportError, match="more than 1 requests"):
        import_lines([good, good], Limits(lines=1))


JOB = {
    "displayName": "run-7-000",
    "state": "JOB_STATE_RUNNING",
    "model": "publishers/google/models/m",
    "createTime": "2026-11-20T10:00:00.000001Z",
    "labels": {"run": "r7"},
}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True),
        ('displayName="run-7-000"', True),
        ("display_name = run-7-000", True),
        ('displayName!="run-7-000"', False),
        ('displayName:"run-7-*"', True),
        ('displayName:"run-8-*"', False),
        ('displayName:"run-7-00[0-9]"', False),
        ('displayName="run-7-*"', False),
        ('state="JOB_STATE_PENDING" OR state="JOB_STATE_RUNNING"', True),
        ('state="JOB_STATE_PENDING" OR state="JOB_STATE_RUNNING" AND displayName="x"', False),
        ('NOT state="JOB_STATE_PENDING"', True),
        ('labels.run="r7"', True),
        ("labels.run:*", True),
        ("labels.other:*", False),
        ('createTime>"2026-11-20T10:00:00Z"', True),
        ('createTime<="2026-11-20T10:00:00Z"', False),
        (r'displayName="a\"b"', False),
    ],
)
def test_filter_selects_matching_jobs(text: str, fits: bool) -> None:  # noqa: FBT001
    assert parse_filter(text)(JOB) is fits


@pytest.mark.parametrize(
    "text", ["displayName", "displayName=", "colour=red", 'state>"a"', "state=a state=b", 'createTime>"x"']
)
def test_rejects_invalid_filter(text: str) -> None:
    with pytest.raises(ApiError, match="Invalid filter"):
        parse_filter(text)


def test_names_are_counted_up_to_a_limit_then_as_distinct() -> None:
    counters = Counters()
    for names in (["a", "b", "a"], ["c", "a"]):
        counters.add_names("x", "each", names=names, limit=2)
        counters.count_distinct("x", "all", names=names)
    assert counters.snapshot() == {"x": {"each": {"a": 3, "b": 1}, "all": {"distinct": 3, "repeated": 2}}}
    counters.reset()
    assert counters.snapshot() == {}

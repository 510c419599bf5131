"""File formats of ``imagebeam export``: values that are hard to write, and pages."""

import csv
import datetime
import io
import json
from decimal import Decimal
from typing import Any

import pyarrow.parquet as parquet
import pytest

from imagebeam.pipeline.export.formats import CsvWriter, GeoJsonWriter, JsonLinesWriter, ParquetWriter
from imagebeam.pipeline.export.settings import load_export
from imagebeam.pipeline.export.sql import kept_columns
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Image, Unit, UnitKind
from imagebeam.transforms.gemini.tuning import build_example, check_task
from imagebeam.transforms.tasks.answer_schema import OffSchemaError
from imagebeam.transforms.tasks.task import parse_task

FIELDS = [
    {"name": "unit_id", "type": "STRING"},
    {"name": "count", "type": "INTEGER"},
    {"name": "score", "type": "FLOAT"},
    {"name": "good", "type": "BOOLEAN"},
    {"name": "cost", "type": "NUMERIC"},
    {"name": "time", "type": "TIMESTAMP"},
    {"name": "names", "type": "STRING", "mode": "REPEATED"},
    {"name": "box", "type": "JSON"},
]
ROWS: list[dict[str, Any]] = [
    {
        "unit_id": 'a "quoted", name\nwith é and 中',
        "count": 2**62 + 1,
        "score": 0.1,
        "good": False,
        "cost": Decimal("0.000000001"),
        "time": datetime.datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC),
        "names": ["x,y", 'z"'],
        "box": {"b": [1, None], "a": "é"},
    },
    {"unit_id": "b", **dict.fromkeys(("count", "score", "good", "cost", "time", "box")), "names": []},
]


def test_csv_reads_back() -> None:
    file = io.BytesIO()
    writer = CsvWriter(file, FIELDS)
    for row in ROWS:
        writer.write([row])
    first, second = csv.DictReader(io.StringIO(file.getvalue().decode(), newline=""))
    assert first["unit_id"] == ROWS[0]["unit_id"]
    assert (first["count"], first["score"], first["good"]) == (str(2**62 + 1), "0.1", "false")
    assert (first["cost"], first["time"]) == ("0.000000001", "2025-01-02T03:04:05.678901Z")
    assert (json.loads(first["names"]), json.loads(first["box"])) == (ROWS[0]["names"], ROWS[0]["box"])
    assert second == {"unit_id": "b", "names": "[]", **dict.fromkeys(("count", "score", "good", "cost", "time"), ""),
                      "box": ""}  # fmt: skip


def test_json_lines_read_back() -> None:
    file = io.BytesIO()
    writer = JsonLinesWriter(file)
    for row in ROWS:
        writer.write([row])
    first, second = map(json.loads, file.getvalue().decode().splitlines())
    assert first == {**ROWS[0], "cost": 1e-9, "time": "2025-01-02T03:04:05.678901Z"}
    assert second == ROWS[1]


def test_parquet_reads_back_with_a_row_group_per_page() -> None:
    file = io.BytesIO()
    writer = ParquetWriter(file, FIELDS)
    for row in ROWS:
        writer.write([row])
    writer.close()
    found = parquet.ParquetFile(file)
    assert found.num_row_groups == 2
    first, second = found.read().to_pylist()
    assert first == {**ROWS[0], "box": '{"b":[1,null],"a":"é"}'}
    assert second == ROWS[1]


@pytest.mark.parametrize(
    ("latitude", "longitude", "located"),
    [(1.0, 2.0, True), (None, 2.0, False), (90.1, 2.0, False), (1.0, -180.5, False), (float("nan"), 2.0, False)],
)
def test_geojson_has_valid_positions_only(latitude: float | None, longitude: float, *, located: bool) -> None:
    file = io.BytesIO()
    writer = GeoJsonWriter(file, "latitude", "longitude")
    writer.write([{"unit_id": "a", "latitude": latitude, "longitude": longitude}])
    writer.close()
    (feature,) = json.loads(file.getvalue())["features"]
    assert feature["geometry"] == ({"type": "Point", "coordinates": [longitude, latitude]} if located else None)
    assert writer.without_position == (not located)


def test_geojson_without_answers_is_valid() -> None:
    file = io.BytesIO()
    GeoJsonWriter(file, "latitude", "longitude").close()
    assert json.loads(file.getvalue()) == {"type": "FeatureCollection", "features": []}


def test_kept_columns_of_several_types_are_json() -> None:
    row = {"types_0": "number,string", "whole_0": False, "types_1": None, "whole_1": True, "types_2": "array",
           "whole_2": False, "types_3": "boolean,null", "whole_3": False}  # fmt: skip
    found = {column.name: column.bigquery_type for column in kept_columns(["mixed", "nothing", "list", "flag"], row)}
    assert found == {"mixed": "JSON", "nothing": "STRING", "list": "JSON", "flag": "BOOL"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "t", "results": "d"}, "no file: set --output=FILE"),
        ({"task": "t", "output": "a.csv"}, "no dataset: set --results=DATASET"),
        ({"output": "a.csv", "results": "d"}, "no task: set --task=NAME"),
        ({"task": "t", "output": "answers", "results": "d"}, "the suffix is none of .csv"),
        ({"task": "t", "output": "a.csv", "results": "d", "version": "v1"}, "takes 12 hex digits"),
        ({"task": "t", "output": "a.csv", "results": "d", "where": "(x"}, "is missing at the end"),
    ],
)
def test_rejects_invalid_settings(given: dict[str, str], message: str, tmp_path: Any) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        load_export(FlagValues(given), cwd=tmp_path, environ={"GOOGLE_CLOUD_PROJECT": "my-project"})


def task_of(yaml: str) -> Any:
    return parse_task(yaml, source="x.yaml", default_model="gemini-2.5-flash")


UNIT = Unit("u", UnitKind.OBSERVATION, "d", (Image("u", "gs://b/u.jpg"),))
SCHEMA = "schema: {type: object, properties: {z: {type: string}, a: {type: integer}}, required: [z]}\n"


def test_a_tuning_example_has_the_published_form() -> None:
    task = task_of(f"name: t\nprompt: What is it?\nsystem: Be brief.\nmedia_resolution: ultra_high\n{SCHEMA}")
    assert build_example(task, UNIT, ["image/jpeg"], {"a": 1.0, "z": "pole"}) == {
        "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"fileData": {"mimeType": "image/jpeg", "fileUri": "gs://b/u.jpg"}},
                    {"text": "What is it?"},
                ],
            },
            {"role": "model", "parts": [{"text": '{"z":"pole","a":1}'}]},
        ],
    }


def test_a_tuning_example_of_free_text_has_the_text() -> None:
    example = build_example(task_of("name: t\nprompt: What?\n"), UNIT, ["image/png"], {"text": "A pole."})
    assert "systemInstruction" not in example
    assert example["contents"][1] == {"role": "model", "parts": [{"text": "A pole."}]}


def test_an_answer_of_another_schema_is_not_an_example() -> None:
    with pytest.raises(OffSchemaError):
        build_example(task_of(f"name: t\nprompt: What?\n{SCHEMA}"), UNIT, ["image/png"], {"a": 1})


def test_rejects_a_task_that_changes_its_images() -> None:
    with pytest.raises(UserError, match="whole images"):
        check_task(task_of("name: t\nprompt: Look.\nimage: {max_side: 512}\n"))
    check_task(task_of("name: t\nprompt: Look {{heading}}.\nunit: asset\n"))

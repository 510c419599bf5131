"""``imagebeam export``: every format of one finished run on the sample dataset, and one-line errors."""

import csv
import dataclasses
import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
import pyarrow.parquet as parquet
import pytest
from google.cloud import bigquery
from google.genai import types
from support.jobs import run_cli

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset
from imagebeam.pipeline.export import command
from imagebeam.transforms.clients import storage as storage_client

UNITS = 40
RESULTS = "exported"
SOURCE = "imagery_insights___us.latest_observations"
TASK = """
name: inspect
model: gemini-2.5-flash
system: |
  Report what is visible.
prompt: |
  Inspect {{asset_type}} at {{latitude}}, {{longitude}}, photographed at {{capture_time}} in {{extra.snapshot_id}}.
schema:
  type: object
  properties:
    usable: {type: boolean}
    defects:
      type: array
      items: {type: string, enum: [rust, crack, lean]}
    count: {type: integer, minimum: 0, maximum: 9}
    box:
      type: object
      properties:
        width: {type: number, minimum: 0, maximum: 9}
        place: {type: string, enum: [top, bottom]}
      required: [width, place]
    quality: {type: number, minimum: 0, maximum: 1}
  required: [usable, defects, count, box, quality]
"""

Answer = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Lab:
    """A finished run."""

    directory: Path
    task: Path

    def arguments(self, *more: str) -> list[str]:
        return ["export", f"--task={self.task}", f"--results={RESULTS}", *more]

    def export(self, *more: str) -> Answer:
        """Export; return the report."""
        code, out, err = run_cli(self.arguments("--json", *more))
        assert code == 0, err
        report: Answer = json.loads(out)
        return report

    def fail(self, *more: str) -> str:
        """Run an export that must fail; return its error line."""
        code, out, err = run_cli(self.arguments(*more))
        assert (code, out) == (2, ""), err
        assert len(err.splitlines()) == 1, err
        return err

    def answers(self) -> list[Answer]:
        """Return the rows of the task's view, by unit."""
        rows = bigquery.Client().query(f"SELECT * FROM {RESULTS}.inspect ORDER BY unit_id").result()
        return [dict(row.items()) for row in rows]


@pytest.fixture(scope="module")
def lab(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("export")
    build_dataset(cloud.url, cloud.project, units=UNITS)
    task = directory / "inspect.yaml"
    task.write_text(TASK, encoding="utf-8")
    code, _, err = run_cli(
        ["classify", f"--task={task}", f"--source={SOURCE}", f"--results={RESULTS}", f"--work_dir={directory}/runs",
         "--keep_columns=Camera_Pose.heading,snapshot_id"]
    )  # fmt: skip
    assert code == 0, err
    storage.Client().create_bucket("exports")
    yield Lab(directory, task)
    bigquery.Client().delete_dataset(RESULTS, delete_contents=True)


def test_json_lines_have_the_rows_of_the_view_and_the_kept_columns(lab: Lab, tmp_path: Path) -> None:
    report = lab.export(f"--output={tmp_path}/a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = lab.answers()
    assert 30 < len(rows) == len(answers) == report["rows"] == report["answers"]
    for row, answer in zip(rows, answers, strict=True):
        for name, value in answer.items():
            is_time = isinstance(value, datetime.datetime)
            assert row[name] == (value.isoformat().replace("+00:00", "Z") if is_time else value), name
        assert isinstance(row["box"]["width"], int | float)
        assert isinstance(row["camera_pose_heading"], float)
        assert row["snapshot_id"] in row["_image_uris"][0]
        assert row["_observation_ids"] == [row["unit_id"]]
        assert row["_cost_usd"] > 0


def test_csv_flattens_nested_values_to_json_text(lab: Lab, tmp_path: Path) -> None:
    lab.export(f"--output={tmp_path}/a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = lab.answers()
    assert [row["unit_id"] for row in rows] == [answer["unit_id"] for answer in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert row["usable"] == str(answer["usable"]).lower()
        assert (json.loads(row["defects"]), json.loads(row["box"])) == (answer["defects"], answer["box"])
        assert datetime.datetime.fromisoformat(row["capture_time"]) == answer["capture_time"]
        assert float(row["quality"]) == answer["quality"]


def test_rows_are_written_in_pages(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PAGE_ROWS", 10)
    report = lab.export(f"--output={tmp_path}/a.parquet")
    written = parquet.ParquetFile(tmp_path / "a.parquet").metadata.to_dict()
    groups = [group["num_rows"] for group in written["row_groups"]]
    assert groups == [10] * (report["rows"] // 10) + [report["rows"] % 10] * (report["rows"] % 10 > 0)
    assert len(groups) > 2


def test_parquet_has_the_types_of_bigquery(lab: Lab, tmp_path: Path) -> None:
    lab.export(f"--output={tmp_path}/a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    types_by_name = {field.name: str(field.type) for field in table.schema}
    expected = {
        "unit_id": "string",
        "capture_time": "timestamp[us, tz=UTC]",
        "latitude": "double",
        "usable": "bool",
        "count": "int64",
        "defects": "list<element: string>",
        "box": "string",
        "camera_pose_heading": "double",
        "snapshot_id": "string",
        "_image_uris": "list<element: string>",
        "_cost_usd": "decimal128(38, 9)",
    }
    assert {name: types_by_name[name] for name in expected} == expected
    rows, answers = table.to_pylist(), lab.answers()
    for name in ("unit_id", "capture_time", "latitude", "usable", "count", "defects", "quality", "_image_uris"):
        assert [row[name] for row in rows] == [answer[name] for answer in answers], name
    assert [json.loads(row["box"]) for row in rows] == [answer["box"] for answer in answers]
    (total,) = bigquery.Client().query(f"SELECT SUM(cost_usd) total FROM {RESULTS}.outcomes WHERE status = 'OK'")
    assert sum((row["_cost_usd"] for row in rows), Decimal(0)) == total.total


def test_geojson_counts_answers_without_a_position(lab: Lab, tmp_path: Path, cloud: LocalCloud) -> None:
    client = bigquery.Client()
    lost = {**_outcome(), "unit_id": "lost", "latitude": None, "longitude": 400.0}
    name = f"{RESULTS}_places"
    client.create_dataset(name)
    client.query(f"CREATE TABLE {name}.outcomes AS SELECT * FROM {RESULTS}.outcomes").result()
    assert client.insert_rows_json(f"{cloud.project}.{name}.outcomes", [lost]) == []
    report = lab.export(f"--results={name}", f"--output={tmp_path}/a.geojson")
    found = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert found["type"] == "FeatureCollection"
    features = {feature["id"]: feature for feature in found["features"]}
    assert (report["without_position"], report["rows"]) == (1, len(features))
    assert features.pop("lost")["geometry"] is None
    for feature in features.values():
        about = feature["properties"]
        assert feature["geometry"] == {"type": "Point", "coordinates": [about["longitude"], about["latitude"]]}
    client.delete_dataset(name, delete_contents=True)


def test_tuning_examples_are_valid_and_equal_the_requests(lab: Lab, tmp_path: Path) -> None:
    """Assets with several images and headings, whose real requests are in the files of a batch job."""
    task = tmp_path / "poles.yaml"
    task.write_text(
        TASK.replace("name: inspect", "name: poles\nunit: asset\nmax_images: 3")
        .replace("Inspect", "{{image_count}} images, the newest at {{heading}} degrees: inspect")
        .replace("snapshot_id", "camera_pose_heading")
    )
    source = (f"--source={SOURCE}", "--keep_columns=camera_pose.heading")
    code, _, err = run_cli(
        ["classify", f"--task={task}", f"--results={RESULTS}", "--work_dir=gs://exports/work", *source, "--lane=batch",
         "--limit=12", "--batch_poll_s=0.05", "--batch_rounds=1"]
    )  # fmt: skip
    assert code == 0, err
    more = (f"--task={task}", "--format=tuning_jsonl", "--keep_columns=camera_pose.heading")
    report = lab.export(*more, f"--source={SOURCE}", f"--output={tmp_path}/train.jsonl")
    examples = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = [dict(row.items()) for row in bigquery.Client().query(f"SELECT * FROM {RESULTS}.poles ORDER BY unit_id")]
    assert len(examples) == report["rows"] == len(answers) > 8
    assert max(len(answer["_image_uris"]) for answer in answers) > 1

    requests = {}
    for blob in storage.Client().list_blobs("exports", prefix="work/"):
        if blob.name.endswith(".requests.jsonl"):
            for line in blob.download_as_text().splitlines():
                request = json.loads(line)["request"]
                uris = [part["fileData"]["fileUri"] for part in request["contents"][0]["parts"] if "fileData" in part]
                requests[tuple(uris)] = request
    for example, answer in zip(examples, answers, strict=True):
        assert set(example) == {"systemInstruction", "contents"}
        request = requests[tuple(answer["_image_uris"])]
        assert example["contents"][0] == request["contents"][0]
        assert example["systemInstruction"]["parts"] == request["systemInstruction"]["parts"]
        assert types.Content.model_validate(example["systemInstruction"]).parts
        asked, expected = (types.Content.model_validate(each) for each in example["contents"])
        assert (asked.role, expected.role) == ("user", "model")
        assert expected.parts
        text = json.loads(str(expected.parts[0].text))
        assert list(text) == ["usable", "defects", "count", "box", "quality"]
        assert text == {name: answer[name] for name in text}

    # Another part of the source: the other answers are counted and left out.
    query = f"--query=SELECT * FROM {SOURCE} WHERE asset_id = '{answers[0]['unit_id']}'"
    report = lab.export(*more, query, f"--output={tmp_path}/part.jsonl")
    assert (report["rows"], report["left_out"]) == (1, {"not in the source with the same images": len(answers) - 1})
    assert "column camera_pose_heading is not kept" in lab.fail(
        f"--task={task}", "--format=tuning_jsonl", f"--source={SOURCE}", f"--output={tmp_path}/none.jsonl"
    )


def test_filters_versions_and_limits(lab: Lab, tmp_path: Path) -> None:
    answers = lab.answers()
    usable = [answer["unit_id"] for answer in answers if answer["usable"]]
    report = lab.export("--where=usable", "--limit=3", f"--output={tmp_path}/a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["unit_id"] for row in rows] == usable[:3]
    assert (report["answers"], report["rows"]) == (len(usable), 3)
    version = answers[0]["_version"]
    report = lab.export(f"--version={version}", "--where=camera_pose_heading > 1000", f"--output={tmp_path}/b.csv")
    assert report["rows"] == 0
    assert (tmp_path / "b.csv").read_text(encoding="utf-8").startswith("unit_id,")
    assert "no answers of version 000000000000" in lab.fail("--version=000000000000", f"--output={tmp_path}/c.csv")


def test_the_same_answers_give_the_same_file(lab: Lab, tmp_path: Path) -> None:
    for name in ("a", "b"):
        lab.export(f"--output={tmp_path}/{name}.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_writes_one_object_that_replaces_another_only_with_force(lab: Lab, tmp_path: Path) -> None:
    path = "gs://exports/answers.parquet"
    lab.export(f"--output={path}")
    lab.export(f"--output={tmp_path}/local.parquet")
    assert [blob.name for blob in storage.Client().list_blobs("exports", prefix="answers")] == ["answers.parquet"]
    assert storage_client.read(path) == (tmp_path / "local.parquet").read_bytes()
    assert f"{path} already exists; use another name, or add --force" in lab.fail(f"--output={path}")
    assert "already exists" in lab.fail(f"--output={tmp_path}/local.parquet")
    lab.export(f"--output={path}", "--format=csv", "--force")
    assert (storage_client.read(path) or b"").startswith(b"unit_id,")


def test_a_failed_export_leaves_no_file(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "gs://exports/kept.jsonl"
    storage_client.write(kept, b"before")

    def pages(*_: object) -> Iterator[list[Answer]]:
        yield [{"unit_id": "a"}] * 10
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_pages", pages)
    for output in (kept, f"{tmp_path}/a.jsonl"):
        code, _, _ = run_cli(lab.arguments("--force", f"--output={output}"))
        assert code == 130
    assert storage_client.read(kept) == b"before"
    monkeypatch.setattr(command, "_pages", lambda *_: [[{"unit_id": "a"}]])
    code, _, err = run_cli(lab.arguments(f"--output={tmp_path}/a.jsonl"))
    assert code == 1
    assert "answers were counted and 1 were read, so nothing is written" in err
    assert list(tmp_path.iterdir()) == []


def test_errors_are_one_line(lab: Lab, tmp_path: Path) -> None:
    output = f"--output={tmp_path}/a.csv"
    assert "the suffix is none of .csv" in lab.fail(f"--output={tmp_path}/a.txt")
    assert "unclosed quote" in lab.fail(output, "--where=x = 'a")
    assert "no_such_column" in lab.fail(output, "--where=no_such_column = 1")
    assert "does not exist, or you cannot access it" in lab.fail(output, "--results=nothing_there")
    assert "bucket" in lab.fail("--output=gs://no-such-bucket-here/a.csv")
    assert "has no answers of task describe" in lab.fail(output, "--task=describe")
    assert "set --source, --query or --query_file" in lab.fail(output, "--format=tuning_jsonl")
    assert "--source is for --format=tuning_jsonl" in lab.fail(output, f"--source={SOURCE}")
    assert list(tmp_path.iterdir()) == []


def _outcome() -> Answer:
    return {
        "task": "inspect",
        "version": "0123456789ab",
        "unit_type": "observation",
        "input_digest": "d",
        "status": "OK",
        "answer": "{}",
        "observation_ids": [],
        "image_uris": [],
        "run_id": "r",
        "answered_at": "2026-01-01T00:00:00Z",
    }

"""Views on the local BigQuery: newest answers, history, dead letters, runs."""

import datetime
import json
from decimal import Decimal
from typing import Any

import pytest
import sqlglot
from support.bigquery_lab import TASK, VERSION, Lab, at, digest, event

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.sql import views
from imagebeam.transforms.sql.tables import TABLES
from imagebeam.transforms.tasks.task import Column, parse_task

COLUMNS = (
    Column("condition", "STRING", "$.condition", "REQUIRED"),
    Column("confidence", "FLOAT64", "$.confidence", "NULLABLE"),
    Column("transformers", "INT64", "$.transformers", "NULLABLE"),
    Column("leaning", "BOOL", "$.leaning", "NULLABLE"),
    Column("defects", "ARRAY<STRING>", "$.defects", "REPEATED"),
    Column("heights", "ARRAY<FLOAT64>", "$.heights", "REPEATED"),
    Column("counts", "ARRAY<INT64>", "$.counts", "REPEATED"),
    Column("box", "JSON", "$.box", "NULLABLE"),
    Column("asset_type", "STRING", "$.asset_type", "NULLABLE"),
    Column("version", "STRING", "$.version", "NULLABLE"),
)
ANSWER = {
    "condition": 'it\'s "good"',
    "confidence": 0.75,
    "transformers": 2,
    "leaning": True,
    "defects": ["rust", "crack, deep", "rust"],
    "heights": [10, 11.5],
    "counts": [3, 1],
    "box": {"x": [1, 2]},
    "asset_type": "pole",
    "version": "v9",
}


@pytest.fixture
def lab(cloud: LocalCloud) -> Lab:
    return Lab(cloud)


def answered(unit: str, answer: Any, **changes: Any) -> dict[str, Any]:
    return event(unit, digest(unit), "OK", answer=json.dumps(answer)) | changes


def read(lab: Lab, sql: str) -> list[dict[str, Any]]:
    """Makes a real view of the SQL and reads it, by unit or run."""
    name = lab.name(f"view_{abs(hash(sql))}")
    lab.bq.put_view(name, sql, description="x")
    rows = [dict(row.items()) for row in lab.client.query(f"SELECT * FROM {name.sql()}").result()]
    return sorted(rows, key=lambda row: str(row.get("unit_id") or row["run_id"]))


def test_answers_have_typed_columns(lab: Lab) -> None:
    about = {"asset_id": "t1", "asset_type": "ASSET_CLASS_X", "latitude": 1.5, "longitude": 2.5, "map_url": "https://m"}
    lab.insert(lab.outcomes, [answered("a", ANSWER, **about, model="m", image_uris=["gs://b/a"], capture_time=at(0))])
    (row,) = read(lab, views.answers_view(lab.outcomes, TASK, COLUMNS))
    assert {name: row[name] for name in ANSWER} == ANSWER
    assert type(row["transformers"]) is int
    assert list(row)[:7] == ["unit_id", "asset_id", "_asset_type", "capture_time", "latitude", "longitude", "map_url"]
    assert list(row)[-5:] == ["_version", "_model", "_image_uris", "_run_id", "_answered_at"]
    assert (row["_asset_type"], row["_version"], row["_image_uris"]) == ("ASSET_CLASS_X", VERSION, ["gs://b/a"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, {}),
        (dict.fromkeys(ANSWER), {}),
        ({"transformers": 3.0, "confidence": 1}, {"transformers": 3, "confidence": 1.0}),
        ({"transformers": "many", "confidence": "high", "leaning": "maybe", "defects": "rust"}, {}),
        ({"transformers": 2**53 + 1}, {"transformers": 2**53 + 1}),
        ({"condition": 5, "defects": ["a", None, "b"], "counts": [1, None]}, None),
        ({"box": [1, None]}, {"box": [1, None]}),
        ({"counts": [], "defects": [], "condition": ""}, {"condition": ""}),
    ],
)
def test_a_value_of_another_type_is_null(lab: Lab, answer: Any, expected: Any) -> None:
    nothing: dict[str, Any] = {name: [] if name in ("defects", "heights", "counts") else None for name in ANSWER}
    if expected is None:
        expected = {"condition": "5", "defects": ["a", "b"], "counts": [1]}
    lab.insert(lab.outcomes, [answered("a", answer)])
    (row,) = read(lab, views.answers_view(lab.outcomes, TASK, COLUMNS))
    assert {name: row[name] for name in ANSWER} == nothing | expected


def test_takes_the_newest_answer_of_any_version(lab: Lab) -> None:
    lab.insert(
        lab.outcomes,
        [
            answered("a", {"condition": "new"}, version="v2", answered_at=at(2)),
            answered("a", {"condition": "old"}, version="v1", answered_at=at(1)),
            event("a", digest("a"), "BLOCKED", "SAFETY", version="v3", answered_at=at(3)),
            answered("b", {"condition": "first"}),
            answered("b", {"condition": "first"}),
            event("c", digest("c"), "UNAVAILABLE"),
            answered("d", {"condition": "x"}, task="another"),
        ],
    )
    rows = read(lab, views.answers_view(lab.outcomes, TASK, COLUMNS[:1]))
    assert [(row["unit_id"], row["condition"], row["_version"]) for row in rows] == [
        ("a", "new", "v2"),
        ("b", "first", VERSION),
    ]


def test_history_has_one_row_per_version_and_input(lab: Lab) -> None:
    lab.insert(
        lab.outcomes,
        [
            answered("a", {"condition": "old"}, version="v1", cost_usd="0.25"),
            event("a", digest("a"), "UNAVAILABLE", "TIMEOUT", version="v1", answered_at=at(9)),
            event("a", digest("a"), "BLOCKED", "SAFETY", version="v2"),
            answered("a", {"condition": "other"}, version="v1", input_digest="changed"),
        ],
    )
    rows = read(lab, views.history_view(lab.outcomes, TASK, COLUMNS[:1]))
    assert {(row["_version"], row["_status"], row["_reason"], row["condition"]) for row in rows} == {
        ("v1", "OK", None, "old"),
        ("v2", "BLOCKED", "SAFETY", None),
        ("v1", "OK", None, "other"),
    }
    assert len(rows) == 3
    assert {row["_cost_usd"] for row in rows} == {Decimal("0.25"), None}


def test_dead_letters_are_units_without_an_answer(lab: Lab) -> None:
    lab.insert(
        lab.outcomes,
        [
            event("a", digest("a"), "UNAVAILABLE", "TIMEOUT", answered_at=at(1)),
            event("a", digest("a"), "IMAGE_ERROR", "NOT_FOUND", answered_at=at(2)),
            event("b", digest("b"), "BLOCKED", "SAFETY", answered_at=at(9)),
            answered("b", {}, answered_at=at(1)),
            event("c", digest("c"), "SUBMITTED"),
            answered("d", {}),
            event("d", digest("d"), "INVALID_ANSWER", "NOT_JSON", version="v2", raw_text="Sure!"),
        ],
    )
    rows = read(lab, views.dead_letters_view(lab.outcomes))
    assert [(row["unit_id"], row["version"], row["reason"], row["raw_text"]) for row in rows] == [
        ("a", VERSION, "NOT_FOUND", None),
        ("d", "v2", "NOT_JSON", "Sure!"),
    ]


def test_runs_history_has_one_row_per_run(lab: Lab) -> None:
    runs = lab.table("runs", TABLES["runs"].schema)
    lab.insert(
        runs,
        [
            {"run_id": "r1", "event": "start", "at": at(0), "state": "RUNNING", "ok": 0},
            {"run_id": "r1", "event": "end", "at": at(2), "state": "DONE", "ok": 5, "cost_usd": "0.5"},
            {"run_id": "r1", "event": "heartbeat", "at": at(3), "state": "RUNNING", "ok": 3},
            {"run_id": "r2", "event": "start", "at": at(5), "state": "RUNNING"},
            {"run_id": "r2", "event": "heartbeat", "at": at(6), "state": "RUNNING", "ok": 2, "books": '{"a": 1}'},
        ],
    )
    first, second = read(lab, views.runs_view(runs))
    assert (first["state"], first["ok"], first["cost_usd"]) == ("DONE", 5, Decimal("0.5"))
    assert (first["started_at"], first["ended_at"], first["last_seen_at"]) == (time(0), time(2), time(3))
    assert (second["state"], second["ok"], second["ended_at"], second["books"]) == ("RUNNING", 2, None, {"a": 1})


def time(minute: int) -> datetime.datetime:
    return datetime.datetime.fromisoformat(at(minute))


def test_names_the_views_after_the_task() -> None:
    task = parse_task("name: describe\nprompt: Describe it.\n", source="x.yaml", default_model="gemini-3.5-flash-lite")
    made = views.views(TableName("p", "d", "outcomes"), task)
    assert list(made) == ["describe", "describe_history", "dead_letters", "runs_history"]
    assert "JSON_VALUE(event.answer, '$.text') AS `text`" in made["describe"].sql
    for view in made.values():
        assert sqlglot.parse_one(view.sql, read="bigquery")
        assert "@" not in view.sql
        assert view.description

"""Rows of the results tables: complete, plain JSON and UTF-8, whatever the outcome holds."""

import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from google.cloud import bigquery
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.core.records import Answer, Image, Outcome, Status, Unit, Usage
from imagebeam.transforms.sql.tables import TABLES, json_text, numeric, outcome_row, row_id

COLUMNS = {"task": "poles", "version": "abc", "model": "m", "lane": "online", "run_id": "r1"}
NOW = "2026-11-20T12:00:00Z"


def unit(**changes: Any) -> Unit:
    values = {
        "unit_id": "o1:a:b",
        "unit_type": "observation",
        "input_digest": "d" * 64,
        "images": (Image("o1:a:b", "gs://b/1/v0/o1:a:b.jpg"),),
        **changes,
    }
    return Unit(**values)


def outcome(**changes: Any) -> Outcome:
    values = {"unit": unit(), "answer": answer(), "answered_at": NOW, **changes}
    return Outcome(**values)


def answer(**changes: Any) -> Answer:
    return Answer(**{"status": Status.OK, "value": {"a": 1}, **changes})


def test_tables_have_the_specified_columns_in_order() -> None:
    names = [field["name"] for field in TABLES["outcomes"].schema]
    assert " ".join(names) == (
        "task version unit_id unit_type input_digest status reason message answer raw_text asset_id asset_type "
        "observation_ids image_uris snapshot_id capture_time latitude longitude map_url extra model model_version "
        "lane traffic_type attempts prompt_tokens cached_tokens output_tokens thought_tokens cost_usd latency_ms "
        "response_id run_id answered_at"
    )
    assert TABLES["outcomes"].clustering == ("task", "version", "unit_id")
    assert set(TABLES) == {"outcomes", "runs", "task_versions"}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_schemas_are_valid_and_every_column_has_a_description(table: Any) -> None:
    fields = [bigquery.SchemaField.from_api_repr(dict(field)) for field in table.schema]
    assert len({field.name for field in fields}) == len(fields)
    assert all(field.description for field in fields)
    assert set(table.clustering) <= {field.name for field in fields}


def test_rows_have_exactly_the_columns_of_the_table() -> None:
    assert list(outcome_row(outcome(), **COLUMNS)) == [field["name"] for field in TABLES["outcomes"].schema]


def test_ok_rows_have_an_answer_and_no_raw_text() -> None:
    row = outcome_row(outcome(answer=answer(value={"condition": "good", "n": 1.5}, raw_text="unused")), **COLUMNS)
    assert json.loads(row["answer"]) == {"condition": "good", "n": 1.5}
    assert row["raw_text"] is None
    assert row["image_uris"] == ["gs://b/1/v0/o1:a:b.jpg"]


def test_failed_rows_have_raw_text_and_no_answer() -> None:
    failure = outcome(answer=answer(status=Status.INVALID_ANSWER, reason="NOT_JSON", raw_text="x" * 9000))
    row = outcome_row(failure, **COLUMNS)
    assert row["answer"] is None
    assert (row["status"], row["reason"], len(row["raw_text"])) == ("INVALID_ANSWER", "NOT_JSON", 4000)


def test_arrays_have_no_null_for_images_without_uri() -> None:
    images = (Image("a", None), Image("b", "gs://b/b.jpg"))
    row = outcome_row(outcome(unit=unit(images=images)), **COLUMNS)
    assert row["observation_ids"] == ["a", "b"]
    assert row["image_uris"] == ["gs://b/b.jpg"]


@pytest.mark.parametrize("wrong", [{"answer": Answer(Status.SKIPPED)}, {"answered_at": None}])
def test_units_without_a_call_have_no_row(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no row"):
        outcome_row(outcome(**wrong), **COLUMNS)


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Decimal("0.0000004051"), "0.000000405"),
        (Decimal(0), "0.000000000"),
        (Decimal("1E+3"), "1000.000000000"),
        (Decimal("NaN"), None),
        (Decimal("Infinity"), None),
        (Decimal("1E+30"), None),
    ],
)
def test_cost_is_a_string_with_nine_decimals_or_null(cost: Decimal, text: str | None) -> None:
    assert numeric(cost) == text


def test_row_ids_identify_events() -> None:
    first = row_id(outcome(), **COLUMNS)
    assert first == row_id(outcome(), **COLUMNS)
    others = {
        row_id(outcome(answer=answer(status=Status.BLOCKED)), **COLUMNS),
        row_id(outcome(answered_at="2026-11-20T12:00:01Z"), **COLUMNS),
        row_id(outcome(unit=unit(unit_id="o2")), **COLUMNS),
        row_id(outcome(unit=unit(input_digest="e")), **COLUMNS),
        row_id(outcome(), **{**COLUMNS, "run_id": "r2"}),
    }
    assert len({first, *others}) == 6


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.decimals(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def finite(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@given(anything)
def test_any_value_is_written_as_strict_json(value: Any) -> None:
    text = json_text(value)
    text.encode()
    finite(text)
    orjson.loads(text)


@given(plain)
def test_json_values_are_unchanged(value: Any) -> None:
    assert json.loads(json_text(value)) == value


@given(
    answer=st.dictionaries(st.text(st.characters()), anything, max_size=4),
    text=st.none() | st.text(st.characters()),
    number=st.none() | st.floats(),
    cost=st.decimals(),
    status=st.sampled_from([status for status in Status if status is not Status.SKIPPED]),
)
def test_any_outcome_is_a_row_of_json_values(
    answer: Any, text: str | None, number: float | None, cost: Decimal, status: Status
) -> None:
    where = unit(unit_id=text or "u", asset_id=text, latitude=number, longitude=number, map_url=text, extra=answer)
    what = Outcome(
        unit=where,
        answer=Answer(status, text, text, answer, raw_text=text, model_version=text),
        usage=Usage(1, 2, 3, 4, text),
        cost_usd=cost,
        answered_at=NOW,
    )
    row = outcome_row(what, **COLUMNS)
    sent = json.dumps(row, allow_nan=False, ensure_ascii=False).encode()  # raises on NaN and on lone surrogates
    assert json.loads(sent) == row
    assert len(row_id(what, **COLUMNS)) == 32

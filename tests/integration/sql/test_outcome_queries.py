"""Queries of recorded outcomes, on the local BigQuery."""

from decimal import Decimal
from typing import Any

import pytest
from support.bigquery_lab import TASK, VERSION, Lab, at, digest, event

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.sql.outcome_queries import answered_units_query, run_counts_query


@pytest.fixture
def lab(cloud: LocalCloud) -> Lab:
    return Lab(cloud)


def test_returns_each_answered_unit_of_the_version_once(lab: Lab) -> None:
    events = [event("a", digest("a"), "OK", prompt_tokens=5, answered_at=at(n)) for n in (1, 2)]
    events += [event("b", digest("b"), "BLOCKED"), event("c", digest("c"), "OK", version="older")]
    events += [event("d", digest("d"), "OK"), event("a", "another", "OK", prompt_tokens=7)]
    lab.insert(lab.outcomes, events)
    rows = lab.rows(answered_units_query(lab.outcomes, TASK, VERSION, ["a", "b", "c", "x"]))
    assert {(row["unit_id"], row["input_digest"], row["status"], row["prompt_tokens"]) for row in rows} == {
        ("a", digest("a"), "OK", 5),
        ("a", "another", "OK", 7),
    }
    assert len(rows) == 2
    assert lab.rows(answered_units_query(lab.outcomes, TASK, VERSION, [])) == []


def test_counts_each_unit_of_a_run_once(lab: Lab) -> None:
    cost: dict[str, Any] = {"prompt_tokens": 10, "output_tokens": 2, "cost_usd": "0.000001500"}
    events = [event("a", digest("a"), status, **cost, answered_at=at(n)) for n, status in enumerate(["OK", "OK"])]
    events += [event("a", digest("a"), "UNAVAILABLE", "TIMEOUT", answered_at=at(9))]
    events += [event("b", digest("b"), "OK", **cost), event("c", digest("c"), "BLOCKED", "SAFETY", **cost)]
    events += [event("d", digest("d"), "IMAGE_ERROR", "NO_URI"), event("e", digest("e"), "OK", run_id="r2")]
    lab.insert(lab.outcomes, events)
    rows = {(row["status"], row["reason"]): row for row in lab.rows(run_counts_query(lab.outcomes, "r1"))}
    assert {key: row["units"] for key, row in rows.items()} == {
        ("OK", None): 2,
        ("BLOCKED", "SAFETY"): 1,
        ("IMAGE_ERROR", "NO_URI"): 1,
    }
    assert (rows["OK", None]["prompt_tokens"], rows["OK", None]["cost_usd"]) == (20, Decimal("0.000003"))
    assert rows["IMAGE_ERROR", "NO_URI"]["prompt_tokens"] is None

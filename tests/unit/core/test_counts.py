"""Counts add up, and every mismatch is reported."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import hypothesis
import hypothesis.strategies as st

from imagebeam.transforms.core.counts import (
    OutcomeCounts,
    Reconciliation,
    SourceCounts,
    count_outcome,
    counts_to_json,
    sum_counts,
)
from imagebeam.transforms.core.records import Answer, Outcome, Status, Unit, UnitKind, Usage

counts = st.builds(
    OutcomeCounts,
    read=st.integers(0, 99),
    ok=st.integers(0, 99),
    failed=st.dictionaries(st.sampled_from(["BLOCKED/SAFETY", "IMAGE_ERROR/NOT_FOUND"]), st.integers(1, 9)),
    skipped=st.integers(0, 9),
    calls=st.integers(0, 99),
    usage=st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    cost_usd=st.decimals(0, 9, places=6),
)


@hypothesis.given(counts, counts, counts)
def test_addition_is_associative_and_commutative(a: OutcomeCounts, b: OutcomeCounts, c: OutcomeCounts) -> None:
    assert (a + b) + c == a + (b + c) == sum_counts([c, a, b])


def test_counts_each_status_once() -> None:
    unit = Unit("u", UnitKind.OBSERVATION, "d", ())
    for status in Status:
        counted = count_outcome(Outcome(unit, Answer(status)))
        assert counted.finished == 1, status


SOURCE = SourceCounts(units_in=10, remaining=6, already_done=3, outdated=1)
COUNTED = OutcomeCounts(read=6, ok=4, failed={"BLOCKED/SAFETY": 1}, skipped=1)
RECORDED = OutcomeCounts(ok=4, failed={"BLOCKED/SAFETY": 1})


def test_matching_counts_have_no_problems() -> None:
    assert Reconciliation(SOURCE, COUNTED, RECORDED).problems() == []


@hypothesis.given(
    field=st.sampled_from(["read", "ok", "skipped"]), by=st.integers(-3, 3).filter(lambda number: number != 0)
)
def test_reports_a_unit_too_many_or_too_few(field: str, by: int) -> None:
    wrong = dataclasses.replace(COUNTED, **{field: getattr(COUNTED, field) + by})
    assert Reconciliation(SOURCE, wrong, RECORDED).problems()


def test_reports_an_answer_missing_from_the_table() -> None:
    assert Reconciliation(SOURCE, COUNTED, dataclasses.replace(RECORDED, ok=3)).problems() == [
        "4 OK counted, but 3 recorded in the table"
    ]


def test_reports_a_failure_recorded_with_another_reason() -> None:
    assert Reconciliation(SOURCE, COUNTED, dataclasses.replace(RECORDED, failed={"BLOCKED/OTHER": 1})).problems()


def test_lines_add_up() -> None:
    lines = Reconciliation(SOURCE, COUNTED, RECORDED).lines()
    numbers = [int(line.split()[0].replace(",", "")) for line in lines]
    assert numbers[0] == sum(numbers[1:])


def test_json_keeps_every_digit_of_a_cost() -> None:
    assert counts_to_json(OutcomeCounts(cost_usd=Decimal("0.0000005")))["cost_usd"] == "5E-7"

"""The books: counts add up, and an imbalance is always seen."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import hypothesis
import hypothesis.strategies as st

from imagebeam.transforms.core.counts import Counts, Planned, Reconciliation, count_outcome, counts_to_json, sum_counts
from imagebeam.transforms.core.records import Outcome, Status, Unit, UnitKind, Usage

counts = st.builds(
    Counts,
    read=st.integers(0, 99),
    ok=st.integers(0, 99),
    failed=st.dictionaries(st.sampled_from(["BLOCKED/SAFETY", "IMAGE_ERROR/NOT_FOUND"]), st.integers(1, 9)),
    skipped=st.integers(0, 9),
    calls=st.integers(0, 99),
    usage=st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    cost_usd=st.decimals(0, 9, places=6),
)


@hypothesis.given(counts, counts, counts)
def test_the_order_of_adding_does_not_matter(a: Counts, b: Counts, c: Counts) -> None:
    assert (a + b) + c == a + (b + c) == sum_counts([c, a, b])


def test_every_status_is_counted_once() -> None:
    unit = Unit("u", UnitKind.OBSERVATION, "d", ())
    for status in Status:
        counted = count_outcome(Outcome(unit, status, reason=None))
        assert counted.finished == 1, status


PLANNED = Planned(units_in=10, due=6, already_done=3, outdated=1)
COUNTED = Counts(read=6, ok=4, failed={"BLOCKED/SAFETY": 1}, skipped=1)
RECORDED = Counts(ok=4, failed={"BLOCKED/SAFETY": 1})


def test_books_that_balance_have_no_problem() -> None:
    assert Reconciliation(PLANNED, COUNTED, RECORDED).problems() == []


@hypothesis.given(
    field=st.sampled_from(["read", "ok", "skipped"]), by=st.integers(-3, 3).filter(lambda number: number != 0)
)
def test_one_unit_too_many_or_too_few_is_seen(field: str, by: int) -> None:
    wrong = dataclasses.replace(COUNTED, **{field: getattr(COUNTED, field) + by})
    assert Reconciliation(PLANNED, wrong, RECORDED).problems()


def test_an_answer_that_is_not_in_the_table_is_seen() -> None:
    assert Reconciliation(PLANNED, COUNTED, dataclasses.replace(RECORDED, ok=3)).problems() == [
        "4 OK counted, but 3 recorded in the table"
    ]


def test_a_failure_with_another_reason_in_the_table_is_seen() -> None:
    assert Reconciliation(PLANNED, COUNTED, dataclasses.replace(RECORDED, failed={"BLOCKED/OTHER": 1})).problems()


def test_the_lines_add_up_for_a_reader() -> None:
    lines = Reconciliation(PLANNED, COUNTED, RECORDED).lines()
    numbers = [int(line.split()[0].replace(",", "")) for line in lines]
    assert numbers[0] == sum(numbers[1:])


def test_money_in_json_keeps_every_digit() -> None:
    assert counts_to_json(Counts(cost_usd=Decimal("0.0000005")))["cost_usd"] == "5E-7"

"""Parsing of --due and --reprocess."""

import pytest

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.sql.selection import Selection, parse_due, parse_reprocess


@pytest.mark.parametrize(
    ("text", "selection"),
    [
        ("new,retry", Selection()),
        (" Outdated , new", Selection(("outdated", "new"))),
        ("failed:NOT_FOUND,failed:safety", Selection(("failed",), ("NOT_FOUND", "SAFETY"))),
        ("failed:NOT_FOUND,failed", Selection(("failed",))),
        ("new,new", Selection(("new",))),
    ],
)
def test_due_names_the_only_states_to_process(text: str, selection: Selection) -> None:
    assert parse_due(text) == selection
    assert parse_due(str(selection)) == selection


@pytest.mark.parametrize(
    ("text", "selection"),
    [
        ("outdated", Selection(("new", "retry", "outdated"))),
        ("failed:safety, outdated", Selection(("new", "retry", "failed", "outdated"), ("SAFETY",))),
        ("failed", Selection(("new", "retry", "failed"))),
    ],
)
def test_reprocess_adds_states_to_the_default(text: str, selection: Selection) -> None:
    assert parse_reprocess(text) == selection
    assert parse_due(str(selection)) == parse_due(str(parse_reprocess(text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown state ''; use new, retry, outdated, failed or failed:REASON"),
        ("all", "unknown state 'all'"),
        ("outdate", r"did you mean outdated\?"),
        ("new:x", "unknown state 'new:x'"),
        ("failed:", "add a reason or status after failed:, such as failed:NOT_FOUND"),
        ("failed:a b", "add a reason or status"),
        ("failed:UNAVAILABLE", "UNAVAILABLE is not a failure; these units are in state retry"),
        ("answered", "unknown state 'answered'"),
    ],
)
def test_rejects_unknown_states_and_reasons(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_due(text)


def test_reprocess_rejects_the_default_states() -> None:
    with pytest.raises(UserError, match=r"--reprocess=.*unknown state 'new'; use outdated, failed or failed:REASON"):
        parse_reprocess("new")

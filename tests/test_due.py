"""The words of --due."""

import pytest

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.sql.due import Due, parse_due


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("new,retry", Due()),
        (" Outdated , new", Due(("outdated", "new"))),
        ("failed:NOT_FOUND,failed:safety", Due(("failed",), ("NOT_FOUND", "SAFETY"))),
        ("failed:NOT_FOUND,failed", Due(("failed",))),
        ("new,new", Due(("new",))),
    ],
)
def test_due_is_read_from_text_and_says_itself_as_text(text: str, due: Due) -> None:
    assert parse_due(text) == due
    assert parse_due(str(due)) == due


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is no state that can be due; choose from new, retry, outdated, failed, failed:REASON"),
        ("all", "'all' is no state"),
        ("outdate", r"do you mean outdated\?"),
        ("new:x", "'new:x' is no state"),
        ("failed:", "comes a reason or status, such as failed:NOT_FOUND"),
        ("failed:a b", "comes a reason or status"),
        ("failed:UNAVAILABLE", "what asks for it is retry"),
        ("answered", "'answered' is no state"),
    ],
)
def test_unknown_words_of_due_are_refused_with_the_list(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_due(text)

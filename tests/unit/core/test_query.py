"""SQL from the user: balanced conditions and queries are accepted, others rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import check_expression, check_select


@pytest.mark.parametrize(
    "text",
    [
        "asset_type = 'x'",
        "a = ')' AND b = \"(\" AND `c)` = 1",
        "a = 'it\\'s )'",
        r"a = r'\') ' AND (b)",
        "a = '''(''(' '''",
        'a = """ ")" """',
        "a IN (1, 2) AND tags[OFFSET(0)] = 'x' -- the first )",
        "a /* ) ; */ = 1 # ( trailing",
        "a = ''",
        "a = ';'",
    ],
)
def test_accepts_complete_conditions(text: str) -> None:
    assert check_expression(f"  {text}\n", source="--where") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("  \n ", "is empty"),
        ("TRUE) OR (TRUE", r"'\)' is unmatched"),
        ("TRUE)", r"'\)' is unmatched"),
        ("a[(1])", r"'\]' is unmatched"),
        ("(a = 1", r"'\)' is missing"),
        ("a = 'x", "unclosed quote '"),
        ("a = 'x\\'", "unclosed quote '"),
        ("a = '''x''", "unclosed quote '''"),
        ("a /* x", "unclosed comment"),
        ("a = 1; DROP TABLE x", "semicolon"),
    ],
)
def test_rejects_unbalanced_conditions(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        check_expression(text, source="--where")
    assert str(caught.value).startswith("--where")
    assert "\n" not in str(caught.value)


@given(st.text("ab()[]'\"`\\#-/*;\n ", max_size=30))
def test_accepted_condition_is_balanced(text: str) -> None:
    try:
        checked = check_expression(text, source="--where")
    except UserError:
        return
    # What follows on the next line is read as code again: its closing bracket is found, and only that one.
    check_expression(f"(\n{checked}\n)", source="wrapped")
    with pytest.raises(UserError):
        check_expression(f"{checked}\n)", source="wrapped")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("SELECT 1;\n ; ", "SELECT 1"),
        ("  -- why\n/* what */ with a AS (SELECT 1) SELECT * FROM a", None),
        ("(SELECT 1) UNION ALL (SELECT 2)", None),
        ("select * from t # all", None),
        ("FROM t |> WHERE a", None),
    ],
)
def test_accepts_one_query_without_trailing_semicolons(text: str, kept: str | None) -> None:
    assert check_select(text, source="--query") == (kept or text.strip())


@pytest.mark.parametrize(
    "text", ["", ";", "DROP TABLE x", "SELECT 1; SELECT 2", "SELECT 1) AS a, (SELECT 2", "-- SELECT", "SELECTED"]
)
def test_rejects_anything_but_one_query(text: str) -> None:
    with pytest.raises(UserError, match="--query"):
        check_select(text, source="--query")

"""Names and literals in SQL: which are accepted, and that a literal always equals its text."""

import dataclasses
import pickle

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName, column, column_path, literal


@pytest.mark.parametrize(
    "text",
    ["my-project.data.table", "my-project:data.table", "`my-project.data.table`", "`my-project`.data.`table`"],
)
def test_parses_full_table_names(text: str) -> None:
    name = TableName.parse(text, "another-project")
    assert name == TableName("my-project", "data", "table")
    assert name.dotted == str(name) == "my-project.data.table"
    assert name.sql() == "`my-project.data.table`"


def test_name_without_project_uses_the_default() -> None:
    assert TableName.parse("data.table", "home-1").dotted == "home-1.data.table"
    with pytest.raises(UserError, match=r"has no project; write PROJECT.data.table"):
        TableName.parse("data.table")


@pytest.mark.parametrize("text", ["example.com:p.data.table", "example.com:p:data.table"])
def test_keeps_the_domain_of_a_project(text: str) -> None:
    assert TableName.parse(text) == TableName("example.com:p", "data", "table")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "table",
        "p.d.t.x.y",
        "p.d.",
        "p..t",
        "p.d.t; DROP TABLE x",
        "p.d.t` JOIN `p.d.u",
        "p.d.t\\",
        "p.da-ta.t",
        "P_X.d.t",
        "p.d.t*",
        "p.d.t$20260101",
        "p.d.t@1",
        "p.d." + "t" * 1025,
        "p.d.t\n-- x",
    ],
)
def test_rejects_invalid_table_names(text: str) -> None:
    with pytest.raises(UserError) as caught:
        TableName.parse(text, "p")
    assert "\n" not in str(caught.value)


def test_table_name_is_validated_when_replaced() -> None:
    name = TableName("p", "d", "t")
    assert dataclasses.replace(name, table="u").dotted == "p.d.u"
    with pytest.raises(UserError):
        dataclasses.replace(name, table="u` --")
    assert pickle.loads(pickle.dumps(name)) == name


def test_quotes_columns_and_paths() -> None:
    assert column("select") == "`select`"
    assert column_path("camera_pose.heading") == "`camera_pose`.`heading`"
    assert column("größe") == "`größe`"


@pytest.mark.parametrize("name", ["", "1a", "a b", "a`b", "a.b", "a-b", "a\nb", "a\\", "x" * 301])
def test_rejects_invalid_column_names(name: str) -> None:
    with pytest.raises(UserError, match="--keep_columns"):
        column(name, source="--keep_columns")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_literal_round_trips_on_one_line(text: str) -> None:
    sql = literal(text)
    assert not any(character in sql for character in "\n\r\0")
    # sqlglot reads every escape but \u and \U, which GoogleSQL has; characters that print need none.
    if all(character.isprintable() or character in "\n\r\t" for character in text):
        parsed = sqlglot.parse_one(f"SELECT {sql}", read="bigquery").expressions[0]
        assert parsed.is_string
        assert parsed.this == text


def test_escapes_unprintable_characters() -> None:
    assert literal("a\0b\u200f\U000e0001'\\") == r"'a\u0000b\u200f\U000e0001\'\\'"
    assert literal("\ud800") == "'\ufffd'"

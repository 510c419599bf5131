"""Names and literals that stand in SQL text, checked so that they can only be what they say they are.

Values go into queries as parameters. What BigQuery takes no parameter for — table and column names, and
every value in a view — passes through here.
"""

from __future__ import annotations

import dataclasses
import re

from imagebeam.transforms.core.errors import UserError

MAX_NAME = 1024

# BigQuery, "Naming datasets" and "Naming tables"; project ids may carry a domain (``example.com:project``).
# Dataset and table names are never longer than 1,024 characters.
_PROJECT = re.compile(r"(?:[a-z0-9][a-z0-9.-]*\.[a-z]+:)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_DATASET = re.compile(r"\w+", re.ASCII)
_TABLE = re.compile(r"[\w-]+")
_COLUMN = re.compile(r"[^\W\d]\w*")
_FULL_NAME = re.compile(r"(?:(?P<project>.+)[.:])?(?P<dataset>[^.:]+)\.(?P<table>[^.:]+)")
_SHOWN_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclasses.dataclass(frozen=True, slots=True)
class TableName:
    """The full name of a BigQuery table or view; cannot be made with a name that is none.

    Attributes:
        project: Project id, ``example.com:project`` included.
        dataset: Dataset id.
        table: Table id.

    Raises:
        UserError: A part is not a name that BigQuery takes.
    """

    project: str
    dataset: str
    table: str

    def __post_init__(self) -> None:
        """Checks the parts."""
        for kind, text, pattern in (
            ("project", self.project, _PROJECT),
            ("dataset", self.dataset, _DATASET),
            ("table", self.table, _TABLE),
        ):
            if not pattern.fullmatch(text) or len(text) > MAX_NAME:
                raise UserError(
                    f"{shown(text)} is no {kind} name of BigQuery (in table "
                    f"{shown(f'{self.project}.{self.dataset}.{self.table}')}); write PROJECT.DATASET.TABLE"
                )

    @classmethod
    def parse(cls, text: str, default_project: str | None = None) -> TableName:
        """Reads ``project.dataset.table``, ``project:dataset.table`` or ``dataset.table``.

        Args:
            text: The name as a person writes it; backticks around it do not matter.
            default_project: Project of a name without one; None demands one.

        Raises:
            UserError: It is no table name, or lacks a project.
        """
        match = _FULL_NAME.fullmatch(text.strip().replace("`", ""))
        if match is None:
            raise UserError(f"{shown(text)} is no table; write PROJECT.DATASET.TABLE or DATASET.TABLE")
        project = match["project"] or default_project
        if not project:
            raise UserError(f"table {shown(text)} has no project; write PROJECT.{match['dataset']}.{match['table']}")
        return cls(project, match["dataset"], match["table"])

    @property
    def dotted(self) -> str:
        """``project.dataset.table``, as the client takes it."""
        return f"{self.project}.{self.dataset}.{self.table}"

    def sql(self) -> str:
        """The name in backticks, as a query takes it."""
        return f"`{self.dotted}`"

    def __str__(self) -> str:
        return self.dotted


def column(name: str, *, where: str = "column") -> str:
    """Quotes one column or field name.

    Args:
        name: Letters, digits and underscores, not starting with a digit, up to 300 characters.
        where: What names it, for the error: a flag or a place in a file.

    Raises:
        UserError: It is no such name. The flexible names that BigQuery also knows are refused: give the
            column a plain name in a ``--query``.
    """
    if not _COLUMN.fullmatch(name) or len(name) > 300:
        raise UserError(
            f"{where}: {shown(name)} is no plain column name (letters, digits, underscores); "
            "with --query you can rename it"
        )
    return f"`{name}`"


def column_path(path: str, *, where: str = "column") -> str:
    """Quotes a column or a field inside a STRUCT, such as ``camera_pose.heading``.

    Raises:
        UserError: A part is no plain name.
    """
    return ".".join(column(part, where=where) for part in path.split("."))


def literal(text: str) -> str:
    """A STRING literal with this value, for views, which cannot have parameters."""
    return "'" + "".join(_escaped(character) for character in text) + "'"


def _escaped(character: str) -> str:
    if character in _SHOWN_ESCAPES:
        return _SHOWN_ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"  # half of a surrogate pair is no character, and no UTF-8
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shown(text: str, limit: int = 80) -> str:
    """A person's text in quotes on one line, cut, as an error message shows it."""
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[: limit - 1] + "…")

"""Names and literals for SQL text, validated and quoted, and ids of runs.

Values are passed as query parameters. What BigQuery does not parameterize (table and column names, and every
value in a view) is quoted here.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import secrets

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.text import quote

MAX_NAME = 1024

# BigQuery, "Naming datasets" and "Naming tables"; project ids may carry a domain (``example.com:project``).
# Dataset and table names are never longer than 1,024 characters.
_PROJECT = re.compile(r"(?:[a-z0-9][a-z0-9.-]*\.[a-z]+:)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_DATASET = re.compile(r"\w+", re.ASCII)
_TABLE = re.compile(r"[\w-]+")
_COLUMN = re.compile(r"[^\W\d]\w*")
_FULL_NAME = re.compile(r"(?:(?P<project>.+)[.:])?(?P<dataset>[^.:]+)\.(?P<table>[^.:]+)")
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclasses.dataclass(frozen=True, slots=True)
class TableName:
    """The full name of a BigQuery table or view, validated.

    Attributes:
        project: Project id, ``example.com:project`` included.
        dataset: Dataset id.
        table: Table id.

    Raises:
        UserError: A part is not a valid name.
    """

    project: str
    dataset: str
    table: str

    def __post_init__(self) -> None:
        """Validate the parts."""
        for kind, text, pattern in (
            ("project", self.project, _PROJECT),
            ("dataset", self.dataset, _DATASET),
            ("table", self.table, _TABLE),
        ):
            if not pattern.fullmatch(text) or len(text) > MAX_NAME:
                raise UserError(
                    f"invalid {kind} name {quote(text)} (in table "
                    f"{quote(f'{self.project}.{self.dataset}.{self.table}')}); write PROJECT.DATASET.TABLE"
                )

    @classmethod
    def parse(cls, text: str, default_project: str | None = None) -> TableName:
        """Parse ``project.dataset.table``, ``project:dataset.table`` or ``dataset.table``.

        Args:
            text: The name; backticks are ignored.
            default_project: Project of a name without one; None requires one.

        Raises:
            UserError: It is not a table name, or has no project.
        """
        match = _FULL_NAME.fullmatch(text.strip().replace("`", ""))
        if match is None:
            raise UserError(f"invalid table name {quote(text)}; write PROJECT.DATASET.TABLE or DATASET.TABLE")
        project = match["project"] or default_project
        if not project:
            raise UserError(f"table {quote(text)} has no project; write PROJECT.{match['dataset']}.{match['table']}")
        return cls(project, match["dataset"], match["table"])

    @property
    def dotted(self) -> str:
        """``project.dataset.table``, as the client library expects it."""
        return f"{self.project}.{self.dataset}.{self.table}"

    def sql(self) -> str:
        """Return the name in backticks, for a query."""
        return f"`{self.dotted}`"

    def __str__(self) -> str:
        return self.dotted


def new_run_id(now: datetime.datetime | None = None) -> str:
    """Return a unique run id: the time in UTC, and six random hex digits.

    >>> new_run_id(datetime.datetime(2026, 11, 21, 6, 30, tzinfo=datetime.UTC))[:16]
    '20261121-063000-'
    """
    moment = (now or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def column(name: str, *, source: str = "column") -> str:
    """Quote one column or field name.

    Args:
        name: Letters, digits and underscores, not starting with a digit, up to 300 characters.
        source: Where the name comes from, for messages: a flag, or a key of a file.

    Raises:
        UserError: It is not such a name. BigQuery's flexible column names are not supported: rename the column in
            a ``--query``.
    """
    if not _COLUMN.fullmatch(name) or len(name) > 300:
        raise UserError(
            f"{source}: {quote(name)} is not a plain column name (letters, digits, underscores); rename it with --query"
        )
    return f"`{name}`"


def column_path(path: str, *, source: str = "column") -> str:
    """Quote a column or a field of a STRUCT, such as ``camera_pose.heading``.

    Raises:
        UserError: A part is not a plain name.
    """
    return ".".join(column(part, source=source) for part in path.split("."))


def literal(text: str) -> str:
    """Return a STRING literal with this value, for views, which cannot have parameters."""
    return "'" + "".join(_escaped(character) for character in text) + "'"


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"  # a lone surrogate is not valid UTF-8
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

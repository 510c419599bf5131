"""Queries of ``imagebeam export``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imagebeam.transforms.core.identifiers import TableName, column, literal
from imagebeam.transforms.core.query import Parameter, Query
from imagebeam.transforms.sql.views import UNIT_COLUMNS, answers_view, name_in_view
from imagebeam.transforms.tasks.task import Column

#: Further columns of every answer.
_MORE: Final = ("event.observation_ids AS _observation_ids", "event.cost_usd AS _cost_usd")


@dataclasses.dataclass(frozen=True, slots=True)
class KeptColumn:
    """A column of the source that runs copied with ``--keep_columns``.

    Attributes:
        name: Its name in the source.
        bigquery_type: Type of all its values: ``STRING``, ``INT64``, ``FLOAT64``, ``BOOL`` or ``JSON``.
    """

    name: str
    bigquery_type: str

    def read(self) -> str:
        """Return the SQL of its value, from the row ``event``."""
        path = literal(f"$.{self.name}")
        if self.bigquery_type == "JSON":
            return f"JSON_QUERY(event.extra, {path})"
        text = f"JSON_VALUE(event.extra, {path})"
        return text if self.bigquery_type == "STRING" else f"SAFE_CAST({text} AS {self.bigquery_type})"


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """The answers to export.

    Attributes:
        outcomes: The table.
        task: Name of the task.
        columns: Columns of the task.
        kept: Columns of the source that runs copied.
        version: Version of the task; None for the newest answer of each unit.
        where: SQL condition on the columns; None for all answers.
        limit: Maximum number of answers.
        more: Further columns: SQL over the row ``event`` of ``outcomes``.
    """

    outcomes: TableName
    task: str
    columns: tuple[Column, ...]
    kept: tuple[KeptColumn, ...] = ()
    version: str | None = None
    where: str | None = None
    limit: int | None = None
    more: tuple[str, ...] = ()

    def rows_query(self) -> Query:
        """Return the query of the answers, ordered by unit."""
        found = self.matching_query()
        return Query(f"{found.sql}\nORDER BY unit_id{self.limit_clause()}", found.parameters)

    def matching_query(self) -> Query:
        """Return the query of the answers, without order and limit."""
        return Query(f"SELECT * FROM (\n{self._view()}\n){self._condition()}", self._values())

    def limit_clause(self) -> str:
        """Return the end of a query that limits its rows."""
        return "" if self.limit is None else f"\nLIMIT {self.limit}"

    def count_query(self) -> Query:
        """Return the query of the number of answers, without the limit: column ``answers``."""
        return Query(f"SELECT COUNT(*) AS answers FROM (\n{self._view()}\n){self._condition()}", self._values())

    def column(self, name: str) -> str:
        """Return the name of a column that describes the unit, which the task may have too."""
        return name_in_view(name, self.columns)

    def _view(self) -> str:
        taken = {name.lower() for name in ("unit_id", *UNIT_COLUMNS, *(found.name for found in self.columns))}
        kept = []
        for found in self.kept:
            name = found.name
            while name.lower() in taken:
                name = f"_{name}"
            taken.add(name.lower())
            kept.append(f"{found.read()} AS {column(name, source='--keep_columns')}")
        only = "TRUE" if self.version is None else "version = @version"
        return answers_view(self.outcomes, self.task, self.columns, more=(*kept, *_MORE, *self.more), only=only)

    def _condition(self) -> str:
        return "" if self.where is None else f"\nWHERE (\n{self.where}\n)"

    def _values(self) -> tuple[Parameter, ...]:
        return () if self.version is None else (Parameter("version", "STRING", self.version),)


def kept_query(outcomes: TableName, task: str) -> Query:
    """Return the query of one value of ``extra`` per run, as text; all rows of a run have the same keys."""
    return Query(
        f"SELECT run_id, ANY_VALUE(TO_JSON_STRING(extra)) AS extra FROM {outcomes.sql()}\n"
        "WHERE task = @task AND status = 'OK' AND extra IS NOT NULL\nGROUP BY run_id",
        (Parameter("task", "STRING", task),),
    )


def kept_types_query(outcomes: TableName, task: str, names: Sequence[str]) -> Query:
    """Return the query of the types of kept columns: one row, columns ``types_N`` (JSON types) and ``whole_N``."""
    parts = []
    for number, name in enumerate(names):
        path = literal(f"$.{name}")
        value = f"JSON_VALUE(extra, {path})"
        parts += [
            f"STRING_AGG(DISTINCT JSON_TYPE(JSON_QUERY(extra, {path}))) AS types_{number}",
            f"LOGICAL_AND({value} IS NULL OR SAFE_CAST({value} AS INT64) IS NOT NULL) AS whole_{number}",
        ]
    selected = ",\n  ".join(parts)
    return Query(
        f"SELECT\n  {selected}\nFROM {outcomes.sql()}\nWHERE task = @task AND status = 'OK'",
        (Parameter("task", "STRING", task),),
    )


def kept_columns(names: Sequence[str], row: Mapping[str, Any]) -> tuple[KeptColumn, ...]:
    """Return the kept columns with the types of :func:`kept_types_query`: JSON where values have several types.

    >>> row = {"types_0": "number,null", "whole_0": True, "types_1": "string", "whole_1": False}
    >>> [found.bigquery_type for found in kept_columns(["floors", "street"], row)]
    ['INT64', 'STRING']
    """
    found = []
    for number, name in enumerate(names):
        types = set((row[f"types_{number}"] or "string").split(",")) - {"null"}
        number_type = "INT64" if row[f"whole_{number}"] else "FLOAT64"
        scalar = {"string": "STRING", "boolean": "BOOL", "number": number_type}
        single = next(iter(types), "string") if len(types) < 2 else ""
        found.append(KeptColumn(name, scalar.get(single, "JSON")))
    return tuple(found)

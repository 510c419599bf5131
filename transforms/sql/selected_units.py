"""The query of all units that a run selects, each with its answer: what ``to_dataframe`` of a run returns.

Unlike :mod:`~imagebeam.transforms.sql.remaining_query` it does not depend on what is already processed, so it returns
the same rows before and after a run, and after a run that had nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagebeam.transforms.core.identifiers import TableName, column, literal
from imagebeam.transforms.core.query import Parameter, Query
from imagebeam.transforms.sql.outcome_queries import EVENT_ORDER
from imagebeam.transforms.sql.selection import QuerySpec
from imagebeam.transforms.sql.source_units import source_steps
from imagebeam.transforms.sql.sources import Source
from imagebeam.transforms.sql.views import read_column
from imagebeam.transforms.tasks.task import Column

#: Columns of the result before and after those of the answer and of the source; from the outcome, unless noted.
_OUTCOME = ("status", "reason", "message")
_UNIT = ("asset_id", "asset_type", "capture_time", "latitude", "longitude", "map_url")  # from the source
_DETAILS = ("version", "model", "lane", "attempts", "cost_usd", "latency_ms", "run_id", "answered_at")
_SCALARS = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}


def build_selected_units_query(
    spec: QuerySpec, answer: Sequence[Column], *, vectors: TableName | None = None, limit: int | None = None
) -> Query:
    """Build the query whose rows are the units of the source after all filters, each with its outcome.

    The outcome is that of the task's current version. Where this version has none, it is the newest answer of another
    version; without such an answer, its columns are NULL.

    Columns: ``unit_id``, ``status``, ``reason``, ``message``, those that describe the unit, those of the answer,
    ``vector`` for embeddings, those of ``--keep_columns``, ``image_uris``, and details of the outcome. A column with
    the name of an answer's column is prefixed with an underscore.

    Args:
        spec: The query of the run.
        answer: Columns of the task's answers.
        vectors: Table of the vectors, for an embedding task.
        limit: Number of rows; None for all.

    Raises:
        UserError: The source does not support a filter, a kept column or the kind of unit.
    """
    kept = spec.source.kept(spec.keep_columns)
    parameters: list[Parameter] = []
    steps = source_steps(spec, kept, parameters)
    names = _Names(answer)
    selected = [f"chosen.unit_id AS {names.add('unit_id')}"]
    selected += [f"event.{name} AS {names.add(name)}" for name in _OUTCOME]
    selected += [f"chosen.{name} AS {names.add(name)}" for name in _UNIT]
    selected += [f"{read_column(found)} AS {column(found.name, source='task schema')}" for found in answer]
    joins = "chosen\nLEFT JOIN event ON chosen.unit_id = event.unit_id AND chosen.input_digest = event.input_digest"
    if vectors is not None:
        steps["vectors"] = _vectors(vectors)
        selected.append(f"vectors.vector AS {names.add('vector')}")
        same = " AND ".join(f"event.{name} = vectors.{name}" for name in ("unit_id", "input_digest", "version"))
        joins += f"\nLEFT JOIN vectors ON {same}"
    selected += [f"{_kept(spec.source, name, path)} AS {names.add(name)}" for name, path in kept.items()]
    selected.append(
        "ARRAY(SELECT image.uri FROM UNNEST(chosen.images) AS image WITH OFFSET AS place WHERE image.uri IS NOT NULL "
        f"ORDER BY place) AS {names.add('image_uris')}"
    )
    selected += [f"event.{name} AS {names.add(name)}" for name in _DETAILS]
    steps["event"] = _events(spec.outcomes, parameters, spec)
    chain = ",\n".join(f"{name} AS (\n{sql}\n)" for name, sql in steps.items())
    rows = "" if limit is None else f"\nLIMIT {int(limit)}"
    sql = f"WITH {chain}\nSELECT\n  " + ",\n  ".join(selected) + f"\nFROM {joins}\nORDER BY chosen.unit_id{rows}"
    return Query(sql, tuple(parameters))


class _Names:
    """Column names that are not taken, with as many underscores in front as that needs."""

    def __init__(self, answer: Sequence[Column]) -> None:
        self._taken = {found.name.lower() for found in answer}

    def add(self, name: str) -> str:
        while name.lower() in self._taken:
            name = f"_{name}"
        self._taken.add(name.lower())
        return column(name)


def _events(outcomes: TableName | None, parameters: list[Parameter], spec: QuerySpec) -> str:
    """Return the step with the outcome of each unit and input."""
    parameters += [Parameter("task", "STRING", spec.task), Parameter("version", "STRING", spec.version)]
    if outcomes is None:
        raise ValueError("a run that has ended has a table of outcomes")
    return (
        f"SELECT *\nFROM {outcomes.sql()}\nWHERE task = @task AND (version = @version OR status = 'OK')\n"
        "QUALIFY ROW_NUMBER() OVER (\n"
        f"  PARTITION BY unit_id, input_digest ORDER BY version = @version DESC, {EVENT_ORDER}) = 1"
    )


def _vectors(table: TableName) -> str:
    """Return the step with one vector per unit, input and version."""
    return (
        f"SELECT unit_id, input_digest, version, vector\nFROM {table.sql()}\nWHERE TRUE\n"
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY unit_id, input_digest, version ORDER BY embedded_at DESC, run_id) = 1"
    )


def _kept(source: Source, name: str, path: str) -> str:
    """Return a kept column with its type; a column that is not a scalar as JSON."""
    field, kind = literal(f"$.{name}"), source.detected.fields[path.lower()].type
    if kind.startswith("ARRAY<") or kind in ("RECORD", "STRUCT", "JSON", "GEOGRAPHY"):
        return f"JSON_QUERY(chosen.extra, {field})"
    kind = _SCALARS.get(kind, kind)
    text = f"JSON_VALUE(chosen.extra, {field})"
    return text if kind in ("STRING", "BYTES") else f"SAFE_CAST({text} AS {kind})"

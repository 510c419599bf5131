"""Views of the results dataset: newest answers with typed columns, their history, dead letters, runs.

A view cannot have parameters, so task names are validated literals. JSON is read with functions that return NULL for a
value of another type, so that one unexpected answer does not break a view.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from imagebeam.transforms.core.identifiers import TableName, column, literal
from imagebeam.transforms.sql.outcome_queries import EVENT_ORDER
from imagebeam.transforms.tasks.task import Column, Task

_ARRAY = re.compile(r"ARRAY<(\w+)>")
#: Columns of outcomes in the views of answers: about the unit, and with a prefix "_" about the answer, and in the
#: history also about the event and its cost.
UNIT_COLUMNS = ("asset_id", "asset_type", "capture_time", "latitude", "longitude", "map_url")
ANSWER_COLUMNS = ("version", "model", "image_uris", "run_id", "answered_at")
EVENT_COLUMNS = ("status", "reason", "message", "raw_text", "input_digest", "observation_ids", "snapshot_id", "extra")
COST_COLUMNS = ("lane", "attempts", "prompt_tokens", "output_tokens", "thought_tokens", "cost_usd", "latency_ms")
_KEY = "task, version, unit_id, input_digest"


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A view that imagebeam creates.

    Attributes:
        sql: Its query.
        description: Description in the console.
    """

    sql: str
    description: str


def views(outcomes: TableName, task: Task) -> dict[str, View]:
    """Build the views of the results dataset by name: those of the task, and those that all tasks share."""
    found = {
        "dead_letters": View(
            dead_letters_view(outcomes),
            "imagebeam: units without an answer, each with the last failure, by task and version.",
        ),
        "runs_history": View(
            runs_view(dataclasses.replace(outcomes, table="runs")),
            "imagebeam: one row per run, from its last event.",
        ),
    }
    columns = task.columns()
    if not columns:  # embeddings, whose vectors are not in outcomes
        return found
    return {
        task.name: View(
            answers_view(outcomes, task.name, columns),
            f"imagebeam: newest answer of task {task.name} for each unit, of any version.",
        ),
        f"{task.name}_history": View(
            history_view(outcomes, task.name, columns),
            f"imagebeam: outcome of each unit in each version of task {task.name}.",
        ),
        **found,
    }


def answers_view(
    outcomes: TableName, task: str, columns: Sequence[Column], *, more: Sequence[str] = (), only: str = "TRUE"
) -> str:
    """Return the view of the newest OK answer per unit over all versions, with typed columns.

    The columns are those that describe the unit, those of the task, and ``_version``, ``_model``, ``_image_uris``,
    ``_run_id``, ``_answered_at``. A column that describes the unit is prefixed with an underscore if the task has a
    column of the same name.

    Args:
        outcomes: The table.
        task: Name of the task.
        columns: Columns of the task.
        more: Further columns: SQL over the row ``event`` of ``outcomes``.
        only: Condition on the rows of ``outcomes`` that are considered at all.
    """
    return _select(
        columns,
        ANSWER_COLUMNS,
        outcomes,
        f"task = {literal(task)} AND status = 'OK'{'' if only == 'TRUE' else f' AND {only}'}",
        "PARTITION BY unit_id ORDER BY answered_at DESC, version, run_id",
        more,
    )


def name_in_view(name: str, columns: Sequence[Column]) -> str:
    """Return the name of a column that describes the unit, in a view with these columns of a task."""
    return "_" * (name in {found.name.lower() for found in columns}) + name


def history_view(outcomes: TableName, task: str, columns: Sequence[Column]) -> str:
    """Return the view of the outcome of each unit, version and input: one row each, an answer before a failure."""
    return _select(
        columns,
        (*ANSWER_COLUMNS, *EVENT_COLUMNS, *COST_COLUMNS),
        outcomes,
        f"task = {literal(task)}",
        f"PARTITION BY version, unit_id, input_digest ORDER BY {EVENT_ORDER}",
    )


def dead_letters_view(outcomes: TableName) -> str:
    """Return the view of the units without an answer, with the details of the last failure."""
    return (
        "SELECT * EXCEPT (answer)\nFROM (\n"
        f"  SELECT * FROM {outcomes.sql()}\n"
        f"  WHERE TRUE\n  QUALIFY ROW_NUMBER() OVER (PARTITION BY {_KEY} ORDER BY {EVENT_ORDER}) = 1\n"
        ")\nWHERE status NOT IN ('OK', 'SUBMITTED')"
    )


def runs_view(runs: TableName) -> str:
    """Return the view with one row per run: its end event or else its last event, and its times."""
    return (
        "SELECT * EXCEPT (event, `at`),\n"
        "  MIN(`at`) OVER (PARTITION BY run_id) AS started_at,\n"
        "  MAX(`at`) OVER (PARTITION BY run_id) AS last_seen_at,\n"
        "  IF(event = 'end', `at`, NULL) AS ended_at\n"
        f"FROM {runs.sql()}\n"
        "WHERE TRUE\n"
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY run_id ORDER BY event = 'end' DESC, `at` DESC) = 1"
    )


def _select(
    columns: Sequence[Column],
    underscored: Sequence[str],
    outcomes: TableName,
    condition: str,
    window: str,
    more: Sequence[str] = (),
) -> str:
    selected = (
        "event.unit_id",
        *(f"event.{name} AS {name_in_view(name, columns)}" for name in UNIT_COLUMNS),
        *(f"{read_column(found)} AS {column(found.name, source='task schema')}" for found in columns),
        *(f"event.{name} AS _{name}" for name in underscored),
        *more,
    )
    # The subquery has no aliases: QUALIFY would resolve "version" to a task's column instead of the table's.
    return (
        "SELECT\n  " + ",\n  ".join(selected) + "\nFROM (\n"
        f"  SELECT * FROM {outcomes.sql()}\n  WHERE {condition}\n"
        f"  QUALIFY ROW_NUMBER() OVER ({window}) = 1\n) AS event"
    )


def read_column(found: Column) -> str:
    """Return the SQL of a column of the answers: the value in ``event.answer`` as its type, or NULL."""
    path = literal(found.path)
    array = _ARRAY.fullmatch(found.bigquery_type)
    if array is not None:
        # BigQuery rejects NULL elements in the arrays of a result, so they are left out.
        value = _scalar("element", array[1])
        return (
            f"ARRAY(SELECT {value} FROM UNNEST(JSON_VALUE_ARRAY(event.answer, {path})) AS element "
            f"WITH OFFSET AS place WHERE {value} IS NOT NULL ORDER BY place)"
        )
    if found.bigquery_type == "JSON":
        return f"JSON_QUERY(event.answer, {path})"
    return _scalar(f"JSON_VALUE(event.answer, {path})", found.bigquery_type)


def _scalar(text: str, kind: str) -> str:
    if kind == "STRING":
        return text
    if kind == "INT64":  # 3.0 is an integer in JSON Schema, but not for a cast
        return f"IFNULL(SAFE_CAST({text} AS INT64), SAFE_CAST(SAFE_CAST({text} AS FLOAT64) AS INT64))"
    if kind in ("FLOAT64", "BOOL"):
        return f"SAFE_CAST({text} AS {kind})"
    raise ValueError(f"unsupported column type {kind}")

"""The reference of tables and views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from docs.generate.markdown import NOTICE, code, paragraph, table
from imagebeam.transforms.sql.embedding_tables import EMBEDDINGS
from imagebeam.transforms.sql.tables import OUTCOMES, TABLES, Field, ResultTable
from imagebeam.transforms.sql.views import ANSWER_COLUMNS, COST_COLUMNS, EVENT_COLUMNS, UNIT_COLUMNS

#: Column and meaning, by view, of columns that are not those of a table.
RUN_TIMES: Final = (
    ("started_at", "TIMESTAMP", "Time of the first event."),
    ("last_seen_at", "TIMESTAMP", "Time of the last event, such as a heartbeat."),
    ("ended_at", "TIMESTAMP", "Time of the end event; NULL without one."),
)
_FIELDS: Final = {str(column["name"]): column for column in OUTCOMES.schema}
_INTRODUCTION: Final = f"""\
# Tables and views

{NOTICE}
All are in the dataset `--results`; imagebeam creates them, and the dataset, where they are missing. Tables are
append-only. A duplicate row, such as a retried insert, is harmless: views and counts take one row per unit, an answer
before a failure. Query the views; use the tables for what the views leave out.

| name | kind | rows |
| --- | --- | --- |
| [`<task>`](#view-task) | view | newest answer of each unit |
| [`<task>_history`](#view-task_history) | view | outcome of each unit in each version of the task |
| [`dead_letters`](#view-dead_letters) | view | units without an answer, with the last failure |
| [`runs_history`](#view-runs_history) | view | one per run |
| [`embeddings`](#view-embeddings) | view | newest vector of each unit, model and dimension |
| [`outcomes`](#table-outcomes) | table | every outcome of a unit |
| [`runs`](#table-runs) | table | events of runs |
| [`task_versions`](#table-task_versions) | table | definition of each version of a task |
| [`embeddings_<model>_<dimension>`](#table-embeddings_model_dimension) | table | vectors of one model and dimension |

Names that start with `_` are internal: `_lease_<task>` allows one run per task at a time and expires; the SQL lane
writes to `_embed_…`, which expire after 30 days, and reads from `_images_…`; `preflight` creates and deletes
`_preflight_…`. With `--batch_source=bigquery` or `--batch_destination=bigquery` the requests and responses of batch
jobs are in `batch_…`: requests expire 30 days after they are written, responses 30 days after they are collected.
"""


def build_page() -> str:
    """Return the page as Markdown."""
    return "\n".join(
        [
            _INTRODUCTION,
            "## View `<task>`\n\nThe newest answer of each unit, of any version of the task.\n",
            _columns(_answers(ANSWER_COLUMNS)),
            "## View `<task>_history`\n\nOne row per unit, version and input; also units without an answer.\n",
            _columns(_answers((*ANSWER_COLUMNS, *EVENT_COLUMNS, *COST_COLUMNS))),
            "## View `dead_letters`\n",
            paragraph(
                "All columns of [`outcomes`](#table-outcomes) except `answer`. One row per task, version, unit and",
                "input whose last outcome is neither OK nor SUBMITTED.",
            ),
            "## View `runs_history`\n",
            "All columns of [`runs`](#table-runs) except `event` and `at`, from the last event of the run, and:\n",
            _columns(RUN_TIMES),
            "## View `embeddings`\n",
            paragraph(
                "All columns of [`embeddings_<model>_<dimension>`](#table-embeddings_model_dimension),",
                "from all of these tables.",
            ),
            *(_table(name, found) for name, found in TABLES.items()),
            _table("embeddings_<model>_<dimension>", EMBEDDINGS),
        ]
    )


def _answers(names: Sequence[str]) -> list[Sequence[str]]:
    return [
        _row(_FIELDS["unit_id"]),
        *(_row(_FIELDS[name]) for name in UNIT_COLUMNS),
        ["…", "", "One column per property of the answer schema, of the newest version."],
        *(["_" + _row(_FIELDS[name])[0], *_row(_FIELDS[name])[1:]] for name in names),
    ]


def _table(name: str, found: ResultTable) -> str:
    described = found.description.removeprefix("imagebeam: ")
    text = paragraph(f"{described[0].upper()}{described[1:]} Clustered by {', '.join(found.clustering)}.")
    rows = _columns([_row(column) for column in found.schema])
    required = (str(column["name"]) for column in found.schema if column["mode"] == "REQUIRED")
    return "\n".join([f"## Table `{name}`\n", text, rows, paragraph(f"Never NULL: {code(*required)}.")])


def _row(column: Field) -> list[str]:
    kind = f"ARRAY<{column['type']}>" if column["mode"] == "REPEATED" else str(column["type"])
    return [str(column["name"]), kind, str(column["description"])]


def _columns(rows: Sequence[Sequence[str]]) -> str:
    return table(["column", "type", "meaning"], ([f"`{name}`", kind and code(kind), text] for name, kind, text in rows))

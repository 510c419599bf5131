"""Queries about what is recorded already: of a group of units, and of a run."""

from __future__ import annotations

from collections.abc import Sequence

from imagebeam.transforms.identifiers import TableName
from imagebeam.transforms.queries import Parameter, Query

#: One event stands for a unit: an answer before anything else, then the newest; the rest only makes ties
#: come out the same every time. Every place that reads events uses this order.
EVENT_ORDER = "status = 'OK' DESC, answered_at DESC, run_id DESC, status, reason"


def answered_units_query(outcomes: TableName, task: str, version: str, unit_ids: Sequence[str]) -> Query:
    """Which of these units have an outcome of this version that need not be repeated, newest event each.

    For a group that another worker may have worked on. Columns: unit_id, input_digest, status, reason, the
    four kinds of tokens, cost_usd.
    """
    return Query(
        "SELECT unit_id, input_digest, status, reason, prompt_tokens, cached_tokens, output_tokens,\n"
        "  thought_tokens, cost_usd\n"
        f"FROM {outcomes.sql()}\n"
        "WHERE task = @task AND version = @version AND unit_id IN UNNEST(@unit_ids) AND status = 'OK'\n"
        f"QUALIFY ROW_NUMBER() OVER (PARTITION BY unit_id, input_digest ORDER BY {EVENT_ORDER}) = 1",
        (
            Parameter("task", "STRING", task),
            Parameter("version", "STRING", version),
            Parameter("unit_ids", "STRING", tuple(unit_ids), array=True),
        ),
    )


def run_books_query(outcomes: TableName, run_id: str) -> Query:
    """What a run recorded, each unit once: by task, version, status and reason the units, tokens and costs."""
    return Query(
        "WITH once AS (\n"
        f"  SELECT * FROM {outcomes.sql()}\n"
        "  WHERE run_id = @run_id\n"
        "  QUALIFY ROW_NUMBER() OVER (\n"
        f"    PARTITION BY task, version, unit_id, input_digest ORDER BY {EVENT_ORDER}) = 1\n"
        ")\n"
        "SELECT task, version, status, reason, COUNT(*) AS units, SUM(attempts) AS attempts,\n"
        "  SUM(prompt_tokens) AS prompt_tokens, SUM(cached_tokens) AS cached_tokens,\n"
        "  SUM(output_tokens) AS output_tokens, SUM(thought_tokens) AS thought_tokens, SUM(cost_usd) AS cost_usd\n"
        "FROM once\nGROUP BY task, version, status, reason",
        (Parameter("run_id", "STRING", run_id),),
    )

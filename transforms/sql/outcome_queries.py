"""Queries of recorded outcomes: of a unit batch, of a run and of a task."""

from __future__ import annotations

from collections.abc import Sequence

from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Parameter, Query

#: The event that counts for a unit: an answer first, then the newest event. The other columns make the order
#: deterministic. Every query of events uses this order.
EVENT_ORDER = "status = 'OK' DESC, answered_at DESC, run_id DESC, status, reason"
#: Newest versions of a task whose usage is considered.
VERSIONS = 20


def answered_units_query(outcomes: TableName, task: str, version: str, unit_ids: Sequence[str]) -> Query:
    """Build the query of the units that this version has answered, the newest event of each.

    Used for a unit batch that another worker may have processed. Columns: unit_id, input_digest, status, reason, the
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


def run_counts_query(outcomes: TableName, run_id: str) -> Query:
    """Build the query of a run's units, tokens and costs by task, version, status and reason, each unit once."""
    return Query(
        "WITH once AS (\n"
        f"  SELECT * FROM {outcomes.sql()}\n"
        "  WHERE run_id = @run_id\n"
        "  QUALIFY ROW_NUMBER() OVER (\n"
        f"    PARTITION BY task, version, unit_id, input_digest ORDER BY {EVENT_ORDER}) = 1\n"
        ")\n"
        "SELECT task, version, status, reason, COUNT(*) AS units, SUM(attempts) AS attempts,\n"
        "  SUM(prompt_tokens) AS prompt_tokens, SUM(cached_tokens) AS cached_tokens,\n"
        "  SUM(output_tokens) AS output_tokens, SUM(thought_tokens) AS thought_tokens, SUM(cost_usd) AS cost_usd,\n"
        "  COUNTIF(cost_usd IS NULL AND attempts > 0) AS unpriced\n"
        "FROM once\nGROUP BY task, version, status, reason",
        (Parameter("run_id", "STRING", run_id),),
    )


def measured_query(outcomes: TableName, task: str, model: str) -> Query:
    """Build the query of the measured usage of a task, by version and lane: units with calls, calls, tokens, seconds.

    Units with a transient failure are left out, since they will be retried, and so are those of the SQL lane, which
    reports no tokens.
    """
    sums = ("attempts", "prompt_tokens", "cached_tokens", "output_tokens", "thought_tokens")
    return Query(
        "SELECT version, lane, COUNT(*) AS units, SUM(ARRAY_LENGTH(image_uris)) AS images,\n  "
        + ", ".join(f"SUM({name}) AS {name}" for name in sums)
        + ",\n  AVG(latency_ms) / 1000 AS latency_s\n"
        f"FROM {outcomes.sql()}\n"
        "WHERE task = @task AND model = @model AND attempts > 0 AND prompt_tokens IS NOT NULL\n"
        "  AND status NOT IN ('SUBMITTED', 'UNAVAILABLE')\n"
        "GROUP BY version, lane",
        (Parameter("task", "STRING", task), Parameter("model", "STRING", model)),
    )


def versions_query(task_versions: TableName, task: str) -> Query:
    """Build the query of the newest versions of a task, newest first: version, definition (JSON text), created_at."""
    return Query(
        "SELECT version, TO_JSON_STRING(definition) AS definition, created_at\n"
        f"FROM {task_versions.sql()}\n"
        "WHERE task = @task\n"
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY version ORDER BY created_at DESC) = 1\n"
        f"ORDER BY created_at DESC, version\nLIMIT {VERSIONS}",
        (Parameter("task", "STRING", task),),
    )

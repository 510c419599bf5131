"""The statements of embedding in BigQuery: pending rows, passes of ``AI.GENERATE_EMBEDDING``, and their results.

One pass over the remaining units; every step is one statement::

    pending (p1) ─► staged (p1_c0, p1_c1 ...) ─► vectors, then outcomes ─► pending (p2): the remainder ─► ...

Only one kind of statement calls the model: the one that creates a staging table with the model's result for every row
of a chunk. BigQuery creates that table completely or not at all. It is dropped after its vectors and then its outcomes
have been written, by INSERT statements that skip existing rows. So a run that dies at any point loses no embedding:
the next run finds the staging tables and writes what is missing.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal

from imagebeam.pipeline.embed_sql.ddl import Connection
from imagebeam.pipeline.embed_sql.staging import NO_URI_CHUNK, StagingTable, Target
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName, literal
from imagebeam.transforms.core.query import Parameter, Query
from imagebeam.transforms.core.records import Lane

RETRYABLE = "A retryable error occurred:"
LANE = Lane.SQL
#: BigQuery's limits for functions that call models (Google, "Quotas and limits", August 2026).
CONCURRENT_JOBS = 5
MOST_ROWS = 1_440_000
#: Rows of the first job of a run: a problem of all rows shows before the other rows are processed.
TRIAL_ROWS = 10

#: Patterns in the status of a row, most specific first, with our status and reason.
_PERMANENT = (
    (r"permission|forbidden|access denied|unauthori[sz]ed", "IMAGE_ERROR/FORBIDDEN"),
    (r"not.?found|does not exist|no such object", "IMAGE_ERROR/NOT_FOUND"),
    (r"too large|exceeds the (limit|maximum)", "IMAGE_ERROR/TOO_LARGE"),
    (r"unsupported|mime type", "IMAGE_ERROR/UNSUPPORTED"),
    (r"unable to process|cannot be processed|not valid|decod|corrupt", "IMAGE_ERROR/UNREADABLE"),
    (r"safety|blocked|prohibited", "BLOCKED/SAFETY"),
)
_UNIT_COLUMNS = ("asset_id", "asset_type", "snapshot_id", "capture_time", "latitude", "longitude", "map_url")


@dataclasses.dataclass(frozen=True, slots=True)
class ModelCall:
    """How a statement calls the model.

    Attributes:
        model: The remote model.
        dimension: Length of the vectors.
        connection: Connection whose account reads the images; None for the account of the query or of the object
            table.
        objects: The object table of the images; None to read them by their URIs.
    """

    model: TableName
    dimension: int
    connection: Connection | None = None
    objects: TableName | None = None


def pending_query(remaining: Query, pending: StagingTable, target: Target, *, rows: int) -> Query:
    """Return the statement that stores the remaining units in chunks; the first chunk is a small trial.

    Args:
        remaining: The query of the remaining units. Without any it has one row without a unit, for the counts.
        pending: The table to create.
        target: The run, for the table's description.
        rows: Maximum number of rows per job.
    """
    names = ("counts", "unit_id", "unit_type", "input_digest", *_UNIT_COLUMNS, "extra")
    columns = ", ".join(f"remaining.{name}" for name in names)
    return Query(
        f"{pending.create(target.description())}"
        f"SELECT numbered.* EXCEPT (position),\n  {_chunk(rows)} AS chunk\nFROM (\n"
        "  SELECT found.*,\n"
        "    ROW_NUMBER() OVER (PARTITION BY found.has_uri ORDER BY found.unit_id) - 1 AS position\n"
        "  FROM (\n"
        f"    SELECT {columns},\n"
        "      remaining.images[SAFE_OFFSET(0)].observation_id AS observation_id,\n"
        "      remaining.images[SAFE_OFFSET(0)].uri AS uri,\n"
        "      STARTS_WITH(IFNULL(remaining.images[SAFE_OFFSET(0)].uri, ''), 'gs://') AS has_uri\n"
        f"    FROM (\n{remaining.sql}\n    ) AS remaining\n  ) AS found\n) AS numbered",
        remaining.parameters,
    )


def remainder_query(pending: StagingTable, target: Target, *, rows: int) -> Query:
    """Return the statement that stores the rows without an outcome as the pending rows of the next pass.

    Args:
        pending: The pass that has ended.
        target: The run whose outcomes are checked.
        rows: Maximum number of rows per job.
    """
    following = dataclasses.replace(pending, number=pending.number + 1)
    return Query(
        f"{following.create(target.description())}"
        f"SELECT remainder.* EXCEPT (position),\n  DIV(position, {_rows(rows)}) AS chunk\nFROM (\n"
        "  SELECT pending.* EXCEPT (chunk), ROW_NUMBER() OVER (ORDER BY pending.unit_id) - 1 AS position\n"
        f"  FROM {pending.table.sql()} AS pending\n"
        f"  WHERE pending.unit_id IS NOT NULL AND NOT EXISTS (\n{_known_outcomes(target, 'pending', '    ')}\n  )\n"
        ") AS remainder",
        target.parameters(),
    )


def chunks_query(pending: StagingTable) -> Query:
    """Return the query of the chunks of a pass: columns ``chunk`` and ``units``."""
    return Query(
        f"SELECT chunk, COUNT(*) AS units\nFROM {pending.table.sql()}\nWHERE unit_id IS NOT NULL\n"
        "GROUP BY chunk\nORDER BY chunk"
    )


def source_counts_query(pending: StagingTable) -> Query:
    """Return the query of the source counts that the first pass stores: one row with the column ``counts``."""
    return Query(f"SELECT counts FROM {pending.table.sql()} LIMIT 1")


def embed_query(staged: StagingTable, call: ModelCall) -> Query:
    """Return the statement that calls the model for a chunk, and stores its result for every row.

    Args:
        staged: The table to create; names the chunk.
        call: How to call the model.
    """
    pending = dataclasses.replace(staged, chunk=None).table
    chunk = int(staged.chunk or 0)
    head = staged.create(f"imagebeam: chunk {chunk}")
    if chunk == NO_URI_CHUNK:
        return Query(
            f"{head}SELECT pending.unit_id, pending.input_digest, CAST([] AS ARRAY<FLOAT64>) AS embedding,\n"
            "  'the row has no gs:// URI' AS status, 'IMAGE_ERROR' AS outcome, 'NO_URI' AS reason\n"
            f"FROM {pending.sql()} AS pending\nWHERE pending.unit_id IS NOT NULL AND pending.chunk = {chunk}"
        )
    if call.objects is None:
        by = "" if call.connection is None else f", {literal(call.connection.dotted)}"
        rows = (
            f"SELECT pending.unit_id, OBJ.MAKE_REF(pending.uri{by}) AS content\n"
            f"        FROM {pending.sql()} AS pending\n        WHERE pending.chunk = {chunk}"
        )
    else:
        rows = (
            "SELECT pending.unit_id, images.ref AS content\n"
            f"        FROM {pending.sql()} AS pending\n        JOIN {call.objects.sql()} AS images "
            f"ON images.uri = pending.uri\n        WHERE pending.chunk = {chunk}"
        )
    missing = literal("NOT_FOUND: the image is not in the object table" if call.objects else "NOT_FOUND: no answer")
    return Query(
        f"{head}SELECT classified.* EXCEPT (status_reason),\n"
        "  SPLIT(classified.status_reason, '/')[OFFSET(0)] AS outcome,\n"
        "  SPLIT(classified.status_reason, '/')[SAFE_OFFSET(1)] AS reason\n"
        f"FROM (\n  SELECT answered.*,\n    {_classify_sql(call.dimension)} AS status_reason\n  FROM (\n"
        "    SELECT pending.unit_id, pending.input_digest, answers.embedding,\n"
        f"      IF(answers.unit_id IS NULL, {missing}, IFNULL(answers.status, '')) AS status\n"
        f"    FROM {pending.sql()} AS pending\n"
        "    LEFT JOIN AI.GENERATE_EMBEDDING(\n"
        f"      MODEL {call.model.sql()},\n      (\n        {rows}\n      ),\n"
        f"      STRUCT({int(call.dimension)} AS output_dimensionality)\n    ) AS answers\n"
        "      ON answers.unit_id = pending.unit_id\n"
        f"    WHERE pending.chunk = {chunk}\n  ) AS answered\n) AS classified"
    )


def staged_counts_query(staged: StagingTable) -> Query:
    """Return the query of the counts of a chunk: ``outcome``, ``reason``, ``units`` and an example ``status``."""
    return Query(
        "SELECT outcome, reason, COUNT(*) AS units, MIN(status) AS status\n"
        f"FROM {staged.table.sql()}\nGROUP BY outcome, reason\nORDER BY outcome, reason"
    )


def insert_vectors_query(staged: StagingTable, target: Target) -> Query:
    """Return the statement that writes the vectors of a chunk; existing ones are skipped."""
    pending = dataclasses.replace(staged, chunk=None).table
    columns = (
        "unit_id", "unit_type", "input_digest", "observation_id", "asset_id", "asset_type", "uri", "latitude",
        "longitude", "position", "capture_time", "map_url", "snapshot_id", "model", "dimension", "vector", "version",
        "run_id", "embedded_at",
    )  # fmt: skip
    on_earth = "pending.latitude BETWEEN -90 AND 90 AND pending.longitude BETWEEN -180 AND 180"
    return Query(
        f"INSERT INTO {target.embeddings.sql()} ({', '.join(columns)})\n"
        "SELECT pending.unit_id, pending.unit_type, pending.input_digest, pending.observation_id, pending.asset_id,\n"
        "  pending.asset_type, pending.uri, pending.latitude, pending.longitude,\n"
        f"  IF({on_earth}, ST_GEOGPOINT(pending.longitude, pending.latitude), NULL),\n"
        "  pending.capture_time, pending.map_url, pending.snapshot_id, @model, @dimension, staged.embedding,\n"
        "  @version, @run_id, CURRENT_TIMESTAMP()\n"
        f"FROM {staged.table.sql()} AS staged\n"
        f"JOIN {pending.sql()} AS pending\n"
        "  ON pending.unit_id = staged.unit_id AND pending.input_digest = staged.input_digest\n"
        "WHERE staged.outcome = 'OK' AND NOT EXISTS (\n"
        f"  SELECT 1 FROM {target.embeddings.sql()} AS existing\n"
        "  WHERE existing.unit_id = staged.unit_id AND existing.input_digest = staged.input_digest\n"
        "    AND existing.version = @version\n)",
        (
            Parameter("version", "STRING", target.version),
            Parameter("run_id", "STRING", target.run_id),
            Parameter("model", "STRING", target.model),
            Parameter("dimension", "INT64", target.dimension),
        ),
    )


def insert_outcomes_query(
    staged: StagingTable, target: Target, *, last: bool, price_usd: Decimal | None = None
) -> Query:
    """Return the statement that writes the outcomes of a chunk; existing ones are skipped.

    Args:
        staged: The results of the chunk.
        target: The run whose outcomes they are.
        last: Whether to write retryable failures too, because no pass follows.
        price_usd: Price of one image; None if it is not known.
    """
    pending = dataclasses.replace(staged, chunk=None).table
    columns = (
        "task", "version", "unit_id", "unit_type", "input_digest", "status", "reason", "message", "asset_id",
        "asset_type", "observation_ids", "image_uris", "snapshot_id", "capture_time", "latitude", "longitude",
        "map_url", "extra", "model", "lane", "attempts", "cost_usd", "run_id", "answered_at",
    )  # fmt: skip
    condition = "TRUE" if last else "staged.outcome != 'UNAVAILABLE'"
    about = ", ".join(f"pending.{name}" for name in _UNIT_COLUMNS[2:])
    attempts = 0 if staged.chunk == NO_URI_CHUNK else int(staged.number)
    return Query(
        f"INSERT INTO {target.outcomes.sql()} ({', '.join(columns)})\n"
        "SELECT @task, @version, pending.unit_id, pending.unit_type, pending.input_digest, staged.outcome,\n"
        "  staged.reason, NULLIF(SUBSTR(staged.status, 1, 1000), ''), pending.asset_id, pending.asset_type,\n"
        "  [pending.observation_id], IF(pending.uri IS NULL, CAST([] AS ARRAY<STRING>), [pending.uri]),\n"
        f"  {about},\n"
        f"  PARSE_JSON(pending.extra), @model, @lane, {attempts}, IF(staged.outcome = 'OK', @price, 0), @run_id,\n"
        "  CURRENT_TIMESTAMP()\n"
        f"FROM {staged.table.sql()} AS staged\n"
        f"JOIN {pending.sql()} AS pending\n"
        "  ON pending.unit_id = staged.unit_id AND pending.input_digest = staged.input_digest\n"
        f"WHERE {condition} AND NOT EXISTS (\n{_known_outcomes(target, 'staged', '  ')}\n)",
        (
            *target.parameters(),
            Parameter("model", "STRING", target.model),
            Parameter("lane", "STRING", LANE),
            Parameter("price", "NUMERIC", price_usd),
        ),
    )


def drop_query(staging: StagingTable) -> Query:
    """Return the statement that drops a staging table."""
    return Query(f"DROP TABLE IF EXISTS {staging.table.sql()}")


def _known_outcomes(target: Target, unit: str, indent: str) -> str:
    return (
        f"{indent}SELECT 1 FROM {target.outcomes.sql()} AS known\n"
        f"{indent}WHERE known.task = @task AND known.version = @version AND known.run_id = @run_id\n"
        f"{indent}  AND known.unit_id = {unit}.unit_id AND known.input_digest = {unit}.input_digest"
    )


def _chunk(rows: int) -> str:
    cut = f"IF(position < {TRIAL_ROWS}, 0, 1 + DIV(position - {TRIAL_ROWS}, {_rows(rows)}))"
    return f"IF(numbered.has_uri, {cut}, {NO_URI_CHUNK})"


def _rows(rows: int) -> int:
    if not 1 <= rows <= MOST_ROWS:
        raise UserError(f"--rows_per_job={rows}: a BigQuery job embeds 1 to {MOST_ROWS:,} rows")
    return int(rows)


def _is_good(dimension: int) -> str:
    return (
        f"ARRAY_LENGTH(answered.embedding) = {int(dimension)} AND NOT EXISTS (\n"
        "        SELECT 1 FROM UNNEST(answered.embedding) AS number\n"
        "        WHERE number IS NULL OR IS_NAN(number) OR IS_INF(number))\n"
        "        AND EXISTS (SELECT 1 FROM UNNEST(answered.embedding) AS number WHERE number != 0)"
    )


def _classify_sql(dimension: int) -> str:
    """Return the expression for ``STATUS`` or ``STATUS/REASON`` of a row."""
    cases = [
        f"WHEN answered.status = '' AND {_is_good(dimension)} THEN 'OK'",
        "WHEN answered.status = '' THEN 'INVALID_ANSWER/WRONG_VECTOR'",
        f"WHEN STARTS_WITH(answered.status, {literal(RETRYABLE)}) THEN 'UNAVAILABLE/RETRYABLE'",
        *(f"WHEN REGEXP_CONTAINS(answered.status, r'(?i){text}') THEN '{reason}'" for text, reason in _PERMANENT),
    ]
    return "CASE\n      " + "\n      ".join(cases) + "\n      ELSE 'BAD_REQUEST/REFUSED'\n    END"

"""The SQL route to embeddings: pending rows, passes of ``AI.GENERATE_EMBEDDING``, and what they come to.

One pass over what is due, each step a statement that can be read on its own::

    pending (p1) ─► landed (p1_c0, p1_c1 ...) ─► vectors, then outcomes ─► pending (p2): what is left ─► ...

A model is asked in one kind of statement only: the one that makes a table of what it said (*landed*), status
by status. That table is there as a whole or not at all, and is dropped only after its vectors and its outcomes
have been written, in this order, each by an INSERT that leaves out what is there. So a run that dies anywhere
loses nothing that was embedded: the next one finds the landed tables and writes what is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from decimal import Decimal

import orjson

from imagebeam.pipeline.embed_sql.ddl import Connection
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName, literal
from imagebeam.transforms.core.query import Parameter, Query
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.sql.embedding_tables import embedding_table

RETRYABLE = "A retryable error occurred:"
LANE = Lane.SQL
#: BigQuery's limits for functions that ask models (Google, "Quotas and limits", August 2026).
CONCURRENT_JOBS = 5
MOST_ROWS = 1_440_000
#: Rows of the first job of a run: what is wrong with all rows shows before the others are asked about.
TRIAL_ROWS = 10
#: The chunk of rows whose image has no address: nothing is asked about them.
NO_URI_CHUNK = -1

_MARK_DIGITS = 8
_SCRATCH = re.compile(r"_embed_(?P<mark>[0-9a-f]{8})_(?P<key>[0-9a-f]{12})_p(?P<number>\d+)(?:_c(?P<chunk>\d+|none))?")
#: What a status says, most telling first: a pattern, and our status with its reason.
_PERMANENT = (
    (r"permission|forbidden|access denied|unauthori[sz]ed", "IMAGE_ERROR/FORBIDDEN"),
    (r"not.?found|does not exist|no such object", "IMAGE_ERROR/NOT_FOUND"),
    (r"too large|exceeds the (limit|maximum)", "IMAGE_ERROR/TOO_LARGE"),
    (r"unsupported|mime type", "IMAGE_ERROR/UNSUPPORTED"),
    (r"unable to process|cannot be processed|not valid|decod|corrupt", "IMAGE_ERROR/UNREADABLE"),
    (r"safety|blocked|prohibited", "BLOCKED/SAFETY"),
)
_ABOUT = ("asset_id", "asset_type", "snapshot_id", "capture_time", "latitude", "longitude", "map_url")


@dataclasses.dataclass(frozen=True, slots=True)
class StagingTable:
    """A table that a run keeps things in while it is going on.

    Attributes:
        dataset: Any table of the results dataset.
        mark: Stands for the task, see :func:`task_hash`.
        key: Twelve random hex digits: no other run, not even one of the same name, has them.
        number: The pass, from 1.
        chunk: The chunk whose result it is; None for the pending rows of the pass.
    """

    dataset: TableName
    mark: str
    key: str
    number: int = 1
    chunk: int | None = None

    @property
    def table(self) -> TableName:
        """The table."""
        end = "" if self.chunk is None else "_cnone" if self.chunk == NO_URI_CHUNK else f"_c{int(self.chunk)}"
        return dataclasses.replace(self.dataset, table=f"_embed_{self.mark}_{self.key}_p{int(self.number)}{end}")

    @property
    def job(self) -> str:
        """What the job that makes it is called, but for the number of the attempt."""
        return f"imagebeam{self.table.table.replace('_', '-')}"

    @classmethod
    def read(cls, table: TableName) -> StagingTable | None:
        """Reads a table's name; None for any other table.

        >>> made = StagingTable(TableName("my-project", "answers", "outcomes"), "0a1b2c3d", "0123456789ab", 2, 7)
        >>> made.table.table, StagingTable.read(made.table).chunk
        ('_embed_0a1b2c3d_0123456789ab_p2_c7', 7)
        """
        found = _SCRATCH.fullmatch(table.table)
        if found is None:
            return None
        given = found["chunk"]
        chunk = None if given is None else NO_URI_CHUNK if given == "none" else int(given)
        dataset = dataclasses.replace(table, table="outcomes")
        return cls(dataset, found["mark"], found["key"], int(found["number"]), chunk)


def task_hash(task: str) -> str:
    """What the names of a task's scratch tables have in common."""
    return hashlib.sha256(task.encode()).hexdigest()[:_MARK_DIGITS]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Whose outcomes a statement writes, and where.

    Attributes:
        outcomes: The table of outcomes.
        task: Name of the task.
        version: Its version.
        model: Model id.
        dimension: Length of the vectors.
        run_id: The run that asked.
    """

    outcomes: TableName
    task: str
    version: str
    model: str
    dimension: int
    run_id: str

    @property
    def embeddings(self) -> TableName:
        """The table of the vectors."""
        return embedding_table(self.outcomes, self.model, self.dimension)

    def note(self) -> str:
        """What the pending table of a run says of it, for a later run that takes in what it left."""
        document = {"task": self.task, "version": self.version, "model": self.model, "dimension": self.dimension}
        return orjson.dumps({**document, "run_id": self.run_id}).decode()

    @classmethod
    def read(cls, outcomes: TableName, note: str) -> Target | None:
        """Reads such a note; None when it is none."""
        try:
            return cls(outcomes, **orjson.loads(note))
        except (TypeError, ValueError):
            return None

    def parameters(self) -> tuple[Parameter, ...]:
        """Task, version and run, as ``@task``, ``@version`` and ``@run_id``."""
        names = {"task": self.task, "version": self.version, "run_id": self.run_id}
        return tuple(Parameter(name, "STRING", value) for name, value in names.items())


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """How a model is asked.

    Attributes:
        model: The remote model.
        dimension: Length of the vectors.
        connection: Whose account reads the images; None for the account of the query, or the object table's.
        objects: The object table of the images; None when they are read straight from their URIs.
    """

    model: TableName
    dimension: int
    connection: Connection | None = None
    objects: TableName | None = None


def pending_sql(due: Query, pending: StagingTable, target: Target, *, rows: int) -> Query:
    """The statement that keeps what is due, cut into chunks; the first one is a small trial.

    Args:
        due: The query of the due units (:func:`remaining_query.build_remaining_query`); with nothing due it has one row
            without a unit, for the counts.
        pending: Where they are kept.
        target: Noted in the table's description.
        rows: Rows per job at most.
    """
    columns = ", ".join(f"due.{name}" for name in ("counts", "unit_id", "unit_type", "input_digest", *_ABOUT, "extra"))
    return Query(
        f"CREATE TABLE {pending.table.sql()}\nOPTIONS (description = {literal(target.note())})\nAS\n"
        f"SELECT addressed.* EXCEPT (place),\n  {_chunk(rows)} AS chunk\nFROM (\n"
        "  SELECT found.*,\n"
        "    ROW_NUMBER() OVER (PARTITION BY found.has_uri ORDER BY found.unit_id) - 1 AS place\n"
        "  FROM (\n"
        f"    SELECT {columns},\n"
        "      due.images[SAFE_OFFSET(0)].observation_id AS observation_id, due.images[SAFE_OFFSET(0)].uri AS uri,\n"
        "      STARTS_WITH(IFNULL(due.images[SAFE_OFFSET(0)].uri, ''), 'gs://') AS has_uri\n"
        f"    FROM (\n{due.sql}\n    ) AS due\n  ) AS found\n) AS addressed",
        due.parameters,
    )


def rest_sql(pending: StagingTable, target: Target, *, rows: int) -> Query:
    """The statement that keeps what the pass has left: the pending rows of the next one.

    Args:
        pending: The pass that is over.
        target: Whose outcomes tell what is done.
        rows: Rows per job at most.
    """
    following = dataclasses.replace(pending, number=pending.number + 1)
    return Query(
        f"CREATE TABLE {following.table.sql()}\nOPTIONS (description = {literal(target.note())})\nAS\n"
        f"SELECT unsettled.* EXCEPT (place),\n  DIV(place, {_rows(rows)}) AS chunk\nFROM (\n"
        "  SELECT pending.* EXCEPT (chunk), ROW_NUMBER() OVER (ORDER BY pending.unit_id) - 1 AS place\n"
        f"  FROM {pending.table.sql()} AS pending\n"
        f"  WHERE pending.unit_id IS NOT NULL AND NOT EXISTS (\n{_known_outcomes(target, 'pending', '    ')}\n  )\n"
        ") AS unsettled",
        target.parameters(),
    )


def chunks_sql(pending: StagingTable) -> Query:
    """The chunks of a pass: columns ``chunk`` and ``units``."""
    return Query(
        f"SELECT chunk, COUNT(*) AS units\nFROM {pending.table.sql()}\nWHERE unit_id IS NOT NULL\n"
        "GROUP BY chunk\nORDER BY chunk"
    )


def counts_sql(pending: StagingTable) -> Query:
    """Build the query of the source counts that the first pass stores: one row with the column ``counts``."""
    return Query(f"SELECT counts FROM {pending.table.sql()} LIMIT 1")


def embed_sql(landed: StagingTable, asked: Asked) -> Query:
    """The statement that asks the model about a chunk, and lands what it said of every row.

    Args:
        landed: The table to make; names the chunk.
        asked: How the model is asked.
    """
    pending = dataclasses.replace(landed, chunk=None).table
    chunk = int(landed.chunk or 0)
    head = f"CREATE TABLE {landed.table.sql()}\nOPTIONS (description = {literal(f'imagebeam: chunk {chunk}')})\nAS\n"
    if chunk == NO_URI_CHUNK:
        return Query(
            f"{head}SELECT pending.unit_id, pending.input_digest, CAST([] AS ARRAY<FLOAT64>) AS embedding,\n"
            "  'the row has no gs:// address' AS status, 'IMAGE_ERROR' AS outcome, 'NO_URI' AS reason\n"
            f"FROM {pending.sql()} AS pending\nWHERE pending.unit_id IS NOT NULL AND pending.chunk = {chunk}"
        )
    if asked.objects is None:
        by = "" if asked.connection is None else f", {literal(asked.connection.dotted)}"
        rows = (
            f"SELECT pending.unit_id, OBJ.MAKE_REF(pending.uri{by}) AS content\n"
            f"        FROM {pending.sql()} AS pending\n        WHERE pending.chunk = {chunk}"
        )
    else:
        rows = (
            "SELECT pending.unit_id, images.ref AS content\n"
            f"        FROM {pending.sql()} AS pending\n        JOIN {asked.objects.sql()} AS images "
            f"ON images.uri = pending.uri\n        WHERE pending.chunk = {chunk}"
        )
    missing = literal("NOT_FOUND: the image is not in the object table" if asked.objects else "NOT_FOUND: no answer")
    return Query(
        f"{head}SELECT judged.* EXCEPT (verdict),\n"
        "  SPLIT(judged.verdict, '/')[OFFSET(0)] AS outcome, SPLIT(judged.verdict, '/')[SAFE_OFFSET(1)] AS reason\n"
        f"FROM (\n  SELECT said.*,\n    {_verdict(asked.dimension)} AS verdict\n  FROM (\n"
        "    SELECT pending.unit_id, pending.input_digest, made.embedding,\n"
        f"      IF(made.unit_id IS NULL, {missing}, IFNULL(made.status, '')) AS status\n"
        f"    FROM {pending.sql()} AS pending\n"
        "    LEFT JOIN AI.GENERATE_EMBEDDING(\n"
        f"      MODEL {asked.model.sql()},\n      (\n        {rows}\n      ),\n"
        f"      STRUCT({int(asked.dimension)} AS output_dimensionality)\n    ) AS made\n"
        "      ON made.unit_id = pending.unit_id\n"
        f"    WHERE pending.chunk = {chunk}\n  ) AS said\n) AS judged"
    )


def tally_sql(landed: StagingTable) -> Query:
    """What a chunk came to: columns ``outcome``, ``reason``, ``units`` and one ``status`` of each."""
    return Query(
        "SELECT outcome, reason, COUNT(*) AS units, MIN(status) AS status\n"
        f"FROM {landed.table.sql()}\nGROUP BY outcome, reason\nORDER BY outcome, reason"
    )


def vectors_sql(landed: StagingTable, target: Target) -> Query:
    """The statement that writes the vectors of a chunk; those that are there are left out."""
    pending = dataclasses.replace(landed, chunk=None).table
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
        "  pending.capture_time, pending.map_url, pending.snapshot_id, @model, @dimension, landed.embedding,\n"
        "  @version, @run_id, CURRENT_TIMESTAMP()\n"
        f"FROM {landed.table.sql()} AS landed\n"
        f"JOIN {pending.sql()} AS pending\n"
        "  ON pending.unit_id = landed.unit_id AND pending.input_digest = landed.input_digest\n"
        "WHERE landed.outcome = 'OK' AND NOT EXISTS (\n"
        f"  SELECT 1 FROM {target.embeddings.sql()} AS there\n"
        "  WHERE there.unit_id = landed.unit_id AND there.input_digest = landed.input_digest\n"
        "    AND there.version = @version\n)",
        (
            Parameter("version", "STRING", target.version),
            Parameter("run_id", "STRING", target.run_id),
            Parameter("model", "STRING", target.model),
            Parameter("dimension", "INT64", target.dimension),
        ),
    )


def outcomes_sql(landed: StagingTable, target: Target, *, last: bool, price_usd: Decimal | None = None) -> Query:
    """The statement that writes the outcomes of a chunk; those that are there are left out.

    Args:
        landed: What the model said.
        target: Whose outcomes they are.
        last: Write also what can be asked again: it has outlasted the passes.
        price_usd: Price of one image; None when it is not known.
    """
    pending = dataclasses.replace(landed, chunk=None).table
    columns = (
        "task", "version", "unit_id", "unit_type", "input_digest", "status", "reason", "message", "asset_id",
        "asset_type", "observation_ids", "image_uris", "snapshot_id", "capture_time", "latitude", "longitude",
        "map_url", "extra", "model", "lane", "attempts", "cost_usd", "run_id", "answered_at",
    )  # fmt: skip
    which = "TRUE" if last else "landed.outcome != 'UNAVAILABLE'"
    about = ", ".join(f"pending.{name}" for name in _ABOUT[2:])
    attempts = 0 if landed.chunk == NO_URI_CHUNK else int(landed.number)
    return Query(
        f"INSERT INTO {target.outcomes.sql()} ({', '.join(columns)})\n"
        "SELECT @task, @version, pending.unit_id, pending.unit_type, pending.input_digest, landed.outcome,\n"
        "  landed.reason, NULLIF(SUBSTR(landed.status, 1, 1000), ''), pending.asset_id, pending.asset_type,\n"
        "  [pending.observation_id], IF(pending.uri IS NULL, CAST([] AS ARRAY<STRING>), [pending.uri]),\n"
        f"  {about},\n"
        f"  PARSE_JSON(pending.extra), @model, @lane, {attempts}, IF(landed.outcome = 'OK', @price, 0), @run_id,\n"
        "  CURRENT_TIMESTAMP()\n"
        f"FROM {landed.table.sql()} AS landed\n"
        f"JOIN {pending.sql()} AS pending\n"
        "  ON pending.unit_id = landed.unit_id AND pending.input_digest = landed.input_digest\n"
        f"WHERE {which} AND NOT EXISTS (\n{_known_outcomes(target, 'landed', '  ')}\n)",
        (
            *target.parameters(),
            Parameter("model", "STRING", target.model),
            Parameter("lane", "STRING", LANE),
            Parameter("price", "NUMERIC", price_usd),
        ),
    )


def drop_sql(scratch: StagingTable) -> Query:
    """The statement that drops a scratch table."""
    return Query(f"DROP TABLE IF EXISTS {scratch.table.sql()}")


def _known_outcomes(target: Target, unit: str, indent: str) -> str:
    return (
        f"{indent}SELECT 1 FROM {target.outcomes.sql()} AS known\n"
        f"{indent}WHERE known.task = @task AND known.version = @version AND known.run_id = @run_id\n"
        f"{indent}  AND known.unit_id = {unit}.unit_id AND known.input_digest = {unit}.input_digest"
    )


def _chunk(rows: int) -> str:
    cut = f"IF(place < {TRIAL_ROWS}, 0, 1 + DIV(place - {TRIAL_ROWS}, {_rows(rows)}))"
    return f"IF(addressed.has_uri, {cut}, {NO_URI_CHUNK})"


def _rows(rows: int) -> int:
    if not 1 <= rows <= MOST_ROWS:
        raise UserError(f"--rows_per_job={rows}: a job of BigQuery embeds 1 to {MOST_ROWS:,} rows")
    return int(rows)


def _is_good(dimension: int) -> str:
    return (
        f"ARRAY_LENGTH(said.embedding) = {int(dimension)} AND NOT EXISTS (\n"
        "        SELECT 1 FROM UNNEST(said.embedding) AS number\n"
        "        WHERE number IS NULL OR IS_NAN(number) OR IS_INF(number))\n"
        "        AND EXISTS (SELECT 1 FROM UNNEST(said.embedding) AS number WHERE number != 0)"
    )


def _verdict(dimension: int) -> str:
    """``STATUS`` or ``STATUS/REASON`` of what was said about a row."""
    cases = [
        f"WHEN said.status = '' AND {_is_good(dimension)} THEN 'OK'",
        "WHEN said.status = '' THEN 'INVALID_ANSWER/WRONG_VECTOR'",
        f"WHEN STARTS_WITH(said.status, {literal(RETRYABLE)}) THEN 'UNAVAILABLE/RETRYABLE'",
        *(f"WHEN REGEXP_CONTAINS(said.status, r'(?i){text}') THEN '{verdict}'" for text, verdict in _PERMANENT),
    ]
    return "CASE\n      " + "\n      ".join(cases) + "\n      ELSE 'BAD_REQUEST/REFUSED'\n    END"

"""The staging tables of a run of the SQL lane, and the run that owns them.

A staging table is dropped when its results are written. Only a run that died leaves some, for the next run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re

import orjson

from imagebeam.transforms.core.identifiers import TableName, literal
from imagebeam.transforms.core.query import Parameter
from imagebeam.transforms.sql.embedding_tables import embedding_table

#: Lifetime of a staging table.
STAGING_DAYS = 30
#: The chunk of rows whose image has no gs:// URI; the model is not called for them.
NO_URI_CHUNK = -1

_HASH_DIGITS = 8
_STAGING_TABLE = re.compile(
    r"_embed_(?P<task_hash>[0-9a-f]{8})_(?P<key>[0-9a-f]{12})_p(?P<number>\d+)(?:_c(?P<chunk>\d+|none))?"
)


@dataclasses.dataclass(frozen=True, slots=True)
class StagingTable:
    """A table that exists only while a run is in progress.

    Attributes:
        dataset: Any table of the results dataset.
        task_hash: Hash of the task name, from :func:`hash_task`.
        key: Twelve random hex digits that no other run has, not even one of the same name.
        number: Number of the pass, from 1.
        chunk: The chunk whose result the table holds; None for the pending rows of the pass.
    """

    dataset: TableName
    task_hash: str
    key: str
    number: int = 1
    chunk: int | None = None

    @property
    def table(self) -> TableName:
        """Name of the table."""
        end = "" if self.chunk is None else "_cnone" if self.chunk == NO_URI_CHUNK else f"_c{int(self.chunk)}"
        return dataclasses.replace(self.dataset, table=f"_embed_{self.task_hash}_{self.key}_p{int(self.number)}{end}")

    @property
    def job(self) -> str:
        """Name of the job that creates it, without the number of the attempt."""
        return f"imagebeam{self.table.table.replace('_', '-')}"

    def create(self, description: str) -> str:
        """Return the head of the statement that creates the table, up to AS."""
        return (
            f"CREATE TABLE {self.table.sql()}\nOPTIONS (\n  description = {literal(description)},\n"
            f"  expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL {STAGING_DAYS} DAY)\n)\nAS\n"
        )

    @classmethod
    def read(cls, table: TableName) -> StagingTable | None:
        """Parse the name of a table; return None for any other table.

        >>> staged = StagingTable(TableName("my-project", "answers", "outcomes"), "0a1b2c3d", "0123456789ab", 2, 7)
        >>> staged.table.table, StagingTable.read(staged.table).chunk
        ('_embed_0a1b2c3d_0123456789ab_p2_c7', 7)
        """
        found = _STAGING_TABLE.fullmatch(table.table)
        if found is None:
            return None
        given = found["chunk"]
        chunk = None if given is None else NO_URI_CHUNK if given == "none" else int(given)
        dataset = dataclasses.replace(table, table="outcomes")
        return cls(dataset, found["task_hash"], found["key"], int(found["number"]), chunk)


def hash_task(task: str) -> str:
    """Return the part that the names of a task's staging tables have in common."""
    return hashlib.sha256(task.encode()).hexdigest()[:_HASH_DIGITS]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The run whose outcomes a statement writes, and where.

    Attributes:
        outcomes: The table of outcomes.
        task: Name of the task.
        version: Version of the task.
        model: Model id.
        dimension: Length of the vectors.
        run_id: The run that called the model.
    """

    outcomes: TableName
    task: str
    version: str
    model: str
    dimension: int
    run_id: str

    @property
    def embeddings(self) -> TableName:
        """The table of embeddings."""
        return embedding_table(self.outcomes, self.model, self.dimension)

    def description(self) -> str:
        """Return the description of a run's pending table, from which a later run can recover it."""
        document = {"task": self.task, "version": self.version, "model": self.model, "dimension": self.dimension}
        return orjson.dumps({**document, "run_id": self.run_id}).decode()

    @classmethod
    def read(cls, outcomes: TableName, description: str) -> Target | None:
        """Parse such a description; return None for any other text."""
        try:
            return cls(outcomes, **orjson.loads(description))
        except (TypeError, ValueError):
            return None

    def parameters(self) -> tuple[Parameter, ...]:
        """Return task, version and run as ``@task``, ``@version`` and ``@run_id``."""
        names = {"task": self.task, "version": self.version, "run_id": self.run_id}
        return tuple(Parameter(name, "STRING", value) for name, value in names.items())

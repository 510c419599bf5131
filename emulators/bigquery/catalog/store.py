"""The DuckDB file behind the local BigQuery: one catalog per project, schemas are datasets.

A session is an in-memory database with the project's file attached: results of queries and our functions
live in memory, so the file holds nothing but people's tables (and, in schema ``_imagebeam``, the
properties that DuckDB cannot keep: descriptions, labels, views' SQL ...).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import duckdb
import orjson

from imagebeam.emulators.bigquery.dialect.functions import translate as bigquery_functions
from imagebeam.emulators.bigquery.dialect.types import literal, quote

META: Final = "_imagebeam"
RESULTS: Final = "results"
#: So that the whole process, which takes 250 MB besides, stays below 1 GB with a table of 100,000 vectors and with a
#: run of a million units. DuckDB spills what is more.
MEMORY_LIMIT: Final = "512MB"
THREADS: Final = 4
#: Rows that a table writes together, and holds in memory until then: 122,880, as usual, are 500 MB of 512 numbers each.
ROW_GROUP: Final = 16_384

Resource = dict[str, Any]


class Store:
    """The open file; safe to use from many threads, each with a cursor of its own.

    Args:
        database: The file; made when it is missing.
        project: Name under which it is attached.
        read_only: For looking at it while no server is up.

    Attributes:
        writing: Held by whoever changes the file: one change at a time.
    """

    def __init__(self, database: Path, project: str, *, read_only: bool = False) -> None:
        self.project = project
        self.writing = threading.RLock()
        self._root = duckdb.connect(":memory:", config={"threads": THREADS, "memory_limit": MEMORY_LIMIT})
        self._root.execute("SET GLOBAL TimeZone = 'UTC'")
        self._root.execute("SET GLOBAL default_null_order = 'nulls_first_on_asc_last_on_desc'")
        self._root.execute(f"SET GLOBAL temp_directory = {literal(str(database) + '.spill')}")
        self._root.execute("SET GLOBAL autoinstall_known_extensions = false")
        self._root.execute("SET GLOBAL autoload_known_extensions = false")
        bigquery_functions.install(self._root)
        self._root.execute(f"CREATE SCHEMA {RESULTS}")
        mode = ", READ_ONLY" if read_only else ""
        self._root.execute(f"ATTACH {literal(str(database))} AS {quote(project)} (ROW_GROUP_SIZE {ROW_GROUP}{mode})")
        self._meta = f"{quote(project)}.{META}.resources"
        if not read_only:
            self._root.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(project)}.{META}")
            self._root.execute(f"CREATE TABLE IF NOT EXISTS {self._meta} (dataset VARCHAR, name VARCHAR, body VARCHAR)")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection for one thread; close it after use."""
        return self._root.cursor()

    def install(self, make: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Let somebody add functions to all connections."""
        make(self._root)

    def duck_name(self, dataset: str, table: str) -> str:
        """Return DuckDB's name of a table of the project."""
        return f"{quote(self.project)}.{quote(dataset)}.{quote(table)}"

    def load(self) -> list[tuple[str, str, Resource]]:
        """Return what is kept of all datasets (their name is empty) and tables."""
        with self.cursor() as cursor:
            rows = cursor.execute(f"SELECT dataset, name, body FROM {self._meta} ORDER BY name").fetchall()
        return [(dataset, name, orjson.loads(body)) for dataset, name, body in rows]

    def change(self, *statements: str, keep: tuple[str, str, Resource | None] | None = None) -> None:
        """Run DDL and keep (or with None forget) a resource, in one transaction.

        Args:
            statements: DuckDB statements.
            keep: Dataset, table (empty for the dataset itself) and what is kept of it.
        """
        with self.writing, self.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                for statement in statements:
                    cursor.execute(statement)
                if keep is not None:
                    dataset, name, body = keep
                    cursor.execute(
                        f"DELETE FROM {self._meta} WHERE dataset = ? AND name = ?",
                        [dataset, name],
                    )
                    if body is not None:
                        text = orjson.dumps(body).decode()
                        cursor.execute(f"INSERT INTO {self._meta} VALUES (?, ?, ?)", [dataset, name, text])
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Write everything to the file and let go of it."""
        with self.writing:
            self._root.execute(f"DETACH {quote(self.project)}")
            self._root.close()

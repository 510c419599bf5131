"""The DuckDB database of the local BigQuery: the project is a catalog, its datasets are schemas.

A session is an in-memory database with the project's file attached. Query results and functions are in memory; the
file has the user's tables and, in schema ``_imagebeam``, the properties that DuckDB cannot store: descriptions, labels,
SQL of views ...
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import duckdb
import orjson

from imagebeam.emulators.bigquery.dialect.functions import library
from imagebeam.emulators.bigquery.dialect.types import literal, quote

META: Final = "_imagebeam"
RESULTS: Final = "results"
#: Keeps the process, which needs another 250 MB, below 1 GB with a table of 100,000 vectors and with a run of a
#: million units. DuckDB spills the rest to disk.
MEMORY_LIMIT: Final = "512MB"
THREADS: Final = 4
#: Rows that a table buffers before it writes them. DuckDB's default of 122,880 would be 500 MB of 512 numbers each.
ROW_GROUP: Final = 16_384

Resource = dict[str, Any]


class Store:
    """An open database. Thread-safe: each thread uses its own cursor.

    Args:
        database: The file; created if it does not exist.
        project: Name of the attached catalog.
        read_only: Whether the file is only read, while the server is down.

    Attributes:
        project: Name of the attached catalog.
        writing: Lock for changes of the file.
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
        library.install(self._root)
        self._root.execute(f"CREATE SCHEMA {RESULTS}")
        mode = ", READ_ONLY" if read_only else ""
        self._root.execute(f"ATTACH {literal(str(database))} AS {quote(project)} (ROW_GROUP_SIZE {ROW_GROUP}{mode})")
        self._meta = f"{quote(project)}.{META}.resources"
        if not read_only:
            self._root.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(project)}.{META}")
            self._root.execute(f"CREATE TABLE IF NOT EXISTS {self._meta} (dataset VARCHAR, name VARCHAR, body VARCHAR)")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection for one thread. The caller closes it."""
        return self._root.cursor()

    def install(self, register: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Call ``register`` with the root connection, to add functions to all cursors."""
        register(self._root)

    def duck_name(self, dataset: str, table: str) -> str:
        """Return the DuckDB name of a table."""
        return f"{quote(self.project)}.{quote(dataset)}.{quote(table)}"

    def load(self) -> list[tuple[str, str, Resource]]:
        """Return dataset, table name (empty for a dataset) and properties of all resources, sorted by name."""
        with self.cursor() as cursor:
            rows = cursor.execute(f"SELECT dataset, name, body FROM {self._meta} ORDER BY name").fetchall()
        return [(dataset, name, orjson.loads(body)) for dataset, name, body in rows]

    def change(self, *statements: str, keep: tuple[str, str, Resource | None] | None = None) -> None:
        """Run DDL and store a resource in one transaction.

        Args:
            statements: DuckDB statements.
            keep: Dataset, table (empty for the dataset itself) and its properties, or None to delete them.
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
        """Write the file and detach it."""
        with self.writing:
            self._root.execute(f"DETACH {quote(self.project)}")
            self._root.close()

"""What BigQuery keeps beside tables: connections, remote models, vector indexes."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Mapping
from typing import Any, Final

import duckdb
import orjson

from imagebeam.emulators.bigquery.catalog.store import META, Store
from imagebeam.emulators.bigquery.dialect.nodes import invalid
from imagebeam.emulators.bigquery.dialect.types import quote
from imagebeam.emulators.core.access import PROJECT_NUMBER
from imagebeam.emulators.core.http import ApiError

#: Connection that ``WITH CONNECTION DEFAULT`` makes and uses.
DEFAULT_CONNECTION: Final = "__default_cloudresource_connection__"


Resource = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class ConnectionId:
    """A connection's full name; ``str()`` gives it as SQL and ObjectRef spell it."""

    project: str
    location: str
    name: str

    def __str__(self) -> str:
        return f"{self.project}.{self.location}.{self.name}"

    @property
    def path(self) -> str:
        """Its resource name."""
        return f"projects/{self.project}/locations/{self.location}/connections/{self.name}"


def read_connection(parts: list[str], project: str) -> ConnectionId:
    """Read ``location.name``, ``project.location.name`` or a resource name, split at its dots.

    Raises:
        ApiError: 400 for anything else.
    """
    if len(parts) == 1 and parts[0].startswith("projects/"):
        parts = parts[0].split("/")[1::2]
    if len(parts) == 2:
        parts = [project, *parts]
    if len(parts) != 3 or not all(parts):
        raise invalid(f"Invalid connection {'.'.join(parts)!r}: write project.location.connection")
    return ConnectionId(parts[0], parts[1].lower(), parts[2])


class Registry:
    """Everything of these kinds; safe to use from many threads. It lives in the file of the tables.

    Args:
        store: The file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._table = f"{quote(store.project)}.{META}.extras"
        self._kept: dict[str, dict[str, Resource]] = {}
        with store.cursor() as cursor:
            try:
                rows = cursor.execute(f"SELECT kind, name, body FROM {self._table}").fetchall()
            except duckdb.CatalogException:
                rows = []
        for kind, name, body in rows:
            self._kept.setdefault(kind, {})[name] = orjson.loads(body)

    def get(self, kind: str, name: str) -> Resource | None:
        """Return what is kept under a name, or None."""
        return self._kept.get(kind, {}).get(name)

    def all(self, kind: str) -> Mapping[str, Resource]:
        """Return everything of a kind, by name."""
        with self._lock:
            return dict(sorted(self._kept.get(kind, {}).items()))

    def put(self, kind: str, name: str, body: Resource, *, what: str, replace: bool, if_absent: bool) -> None:
        """Keep something.

        Raises:
            ApiError: 409 when it is there and neither is to be replaced nor left alone.
        """
        with self._lock:
            if self.get(kind, name) is not None and not replace:
                if if_absent:
                    return
                raise ApiError(409, f"Already Exists: {what}", reason="duplicate")
            self._write(kind, name, body)

    def drop(self, kind: str, name: str, *, what: str, if_exists: bool) -> None:
        """Forget something.

        Raises:
            ApiError: 404 when it is not there.
        """
        with self._lock:
            if self.get(kind, name) is None:
                if if_exists:
                    return
                raise ApiError(404, f"Not found: {what}", reason="notFound")
            self._write(kind, name, None)

    def forget_under(self, name: str) -> None:
        """Forget the models and indexes of a dataset, or the indexes of a table (``dataset.table``)."""
        with self._lock:
            for kind in ("model", "index"):
                for key in [key for key in self._kept.get(kind, {}) if key.startswith(f"{name}.")]:
                    self._write(kind, key, None)

    # Connections

    def named(self, name: str) -> ConnectionId:
        """Read a connection's name as SQL and ObjectRef spell it."""
        return read_connection(name.split("."), self._store.project)

    def connection(self, ident: ConnectionId) -> Resource:
        """Return a connection.

        Raises:
            ApiError: 404 when there is none.
        """
        found = self.get("connection", str(ident))
        if found is None:
            raise ApiError(404, f"Not found: Connection {ident.path}", reason="notFound")
        return found

    def create_connection(
        self, ident: ConnectionId, *, if_absent: bool, replace: bool = False, **more: Any
    ) -> Resource:
        """Make a Cloud resource connection with a service account of its own.

        Raises:
            ApiError: 409 when there is one, and it is not to be left alone.
        """
        if ident.project != self._store.project:
            raise ApiError(404, f"Not found: Project {ident.project}", reason="notFound")
        mark = hashlib.sha256(str(ident).encode()).hexdigest()[:4]
        account = f"bqcx-{PROJECT_NUMBER}-{mark}@gcp-sa-bigquery-condel.iam.gserviceaccount.com"
        body = {"name": ident.path, "cloudResource": {"serviceAccountId": account}, **more}
        self.put("connection", str(ident), body, what=f"Connection {ident.path}", replace=replace, if_absent=if_absent)
        return self.connection(ident)

    def connection_for(self, parts: list[str] | None, location: str) -> ConnectionId:
        """Return the connection that a statement names, None for the default one of a location.

        Raises:
            ApiError: 404 when there is none, 400 when it is elsewhere than the dataset.
        """
        project = self._store.project
        if parts is None:
            ident = ConnectionId(project, location.lower(), DEFAULT_CONNECTION)
            self.create_connection(ident, if_absent=True)
            return ident
        ident = read_connection(parts, project)
        self.connection(ident)
        if ident.location != location.lower():
            raise invalid(
                f"Connection {ident} is in location {ident.location}, but the dataset is in {location}: they must be "
                "in the same location"
            )
        return ident

    def _write(self, kind: str, name: str, body: Resource | None) -> None:
        with self._store.writing, self._store.cursor() as cursor:
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {self._table} (kind VARCHAR, name VARCHAR, body VARCHAR)")
            cursor.execute(f"DELETE FROM {self._table} WHERE kind = ? AND name = ?", [kind, name])
            if body is not None:
                cursor.execute(f"INSERT INTO {self._table} VALUES (?, ?, ?)", [kind, name, orjson.dumps(body).decode()])
        of_kind = self._kept.setdefault(kind, {})
        of_kind.pop(name, None)
        if body is not None:
            of_kind[name] = body

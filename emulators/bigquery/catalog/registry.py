"""Registry of connections, remote models and vector indexes."""

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

#: Name of the connection that ``WITH CONNECTION DEFAULT`` creates and uses.
DEFAULT_CONNECTION: Final = "__default_cloudresource_connection__"

Resource = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class ConnectionId:
    """Full name of a connection; ``str()`` is its form in SQL and ObjectRef."""

    project: str
    location: str
    name: str

    def __str__(self) -> str:
        return f"{self.project}.{self.location}.{self.name}"

    @property
    def path(self) -> str:
        """Resource name."""
        return f"projects/{self.project}/locations/{self.location}/connections/{self.name}"


def parse_connection_id(parts: list[str], project: str) -> ConnectionId:
    """Parse the name of a connection.

    Args:
        parts: ``location.name``, ``project.location.name`` or a resource name, split at its dots.
        project: Project of a name without one.

    Raises:
        ApiError: 400 for an invalid name.
    """
    if len(parts) == 1 and parts[0].startswith("projects/"):
        parts = parts[0].split("/")[1::2]
    if len(parts) == 2:
        parts = [project, *parts]
    if len(parts) != 3 or not all(parts):
        raise invalid(f"Invalid connection {'.'.join(parts)!r}: write project.location.connection")
    return ConnectionId(parts[0], parts[1].lower(), parts[2])


class Registry:
    """Named resources by kind, stored in the database file. Thread-safe.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._table = f"{quote(store.project)}.{META}.extras"
        self._resources: dict[str, dict[str, Resource]] = {}
        with store.cursor() as cursor:
            try:
                rows = cursor.execute(f"SELECT kind, name, body FROM {self._table}").fetchall()
            except duckdb.CatalogException:
                rows = []
        for kind, name, body in rows:
            self._resources.setdefault(kind, {})[name] = orjson.loads(body)

    def get(self, kind: str, name: str) -> Resource | None:
        """Return a resource, or None if it does not exist."""
        return self._resources.get(kind, {}).get(name)

    def all(self, kind: str) -> Mapping[str, Resource]:
        """Return all resources of a kind, sorted by name."""
        with self._lock:
            return dict(sorted(self._resources.get(kind, {}).items()))

    def put(self, kind: str, name: str, body: Resource, *, label: str, replace: bool, if_absent: bool) -> None:
        """Store a resource.

        Args:
            kind: Its kind.
            name: Its name.
            body: Its properties.
            label: Its name in messages.
            replace: Whether to replace an existing resource.
            if_absent: Whether to leave an existing resource unchanged.

        Raises:
            ApiError: 409 if it already exists and neither ``replace`` nor ``if_absent`` is set.
        """
        with self._lock:
            if self.get(kind, name) is not None and not replace:
                if if_absent:
                    return
                raise ApiError(409, f"Already Exists: {label}", reason="duplicate")
            self._write(kind, name, body)

    def drop(self, kind: str, name: str, *, label: str, if_exists: bool) -> None:
        """Delete a resource.

        Args:
            kind: Its kind.
            name: Its name.
            label: Its name in messages.
            if_exists: Whether to ignore that it does not exist.

        Raises:
            ApiError: 404 if it does not exist.
        """
        with self._lock:
            if self.get(kind, name) is None:
                if if_exists:
                    return
                raise ApiError(404, f"Not found: {label}", reason="notFound")
            self._write(kind, name, None)

    def drop_children(self, name: str) -> None:
        """Delete the models and indexes of a dataset, or the indexes of a table (``dataset.table``)."""
        with self._lock:
            for kind in ("model", "index"):
                for key in [key for key in self._resources.get(kind, {}) if key.startswith(f"{name}.")]:
                    self._write(kind, key, None)

    # Connections

    def parse_connection(self, name: str) -> ConnectionId:
        """Parse the name of a connection in SQL or in an ObjectRef."""
        return parse_connection_id(name.split("."), self._store.project)

    def connection(self, ident: ConnectionId) -> Resource:
        """Return a connection.

        Raises:
            ApiError: 404 for an unknown connection.
        """
        found = self.get("connection", str(ident))
        if found is None:
            raise ApiError(404, f"Not found: Connection {ident.path}", reason="notFound")
        return found

    def create_connection(
        self, ident: ConnectionId, *, if_absent: bool, replace: bool = False, **properties: Any
    ) -> Resource:
        """Create a Cloud resource connection with its own service account.

        Args:
            ident: Its name.
            if_absent: Whether to leave an existing connection unchanged.
            replace: Whether to replace an existing connection.
            properties: Further properties of the resource.

        Raises:
            ApiError: 404 for another project, 409 if it already exists.
        """
        if ident.project != self._store.project:
            raise ApiError(404, f"Not found: Project {ident.project}", reason="notFound")
        suffix = hashlib.sha256(str(ident).encode()).hexdigest()[:4]
        account = f"bqcx-{PROJECT_NUMBER}-{suffix}@gcp-sa-bigquery-condel.iam.gserviceaccount.com"
        body = {"name": ident.path, "cloudResource": {"serviceAccountId": account}, **properties}
        self.put("connection", str(ident), body, label=f"Connection {ident.path}", replace=replace, if_absent=if_absent)
        return self.connection(ident)

    def connection_for(self, parts: list[str] | None, location: str) -> ConnectionId:
        """Return the connection that a statement uses.

        Args:
            parts: Its name, split at the dots; None for the default connection of the location.
            location: Location of the dataset.

        Raises:
            ApiError: 404 for an unknown connection, 400 if it is in another location.
        """
        project = self._store.project
        if parts is None:
            ident = ConnectionId(project, location.lower(), DEFAULT_CONNECTION)
            self.create_connection(ident, if_absent=True)
            return ident
        ident = parse_connection_id(parts, project)
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
        resources = self._resources.setdefault(kind, {})
        resources.pop(name, None)
        if body is not None:
            resources[name] = body

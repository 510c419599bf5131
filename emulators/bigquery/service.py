"""The local BigQuery: its REST API (``/bigquery/v2``) as google-cloud-bigquery and Beam use it.

A request for something that is not implemented fails with 501 and names it.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from imagebeam.emulators.bigquery.access import AccessControl
from imagebeam.emulators.bigquery.ai.embedder import Embedder
from imagebeam.emulators.bigquery.ai.faults import AiFaults
from imagebeam.emulators.bigquery.api.connections import ConnectionApi
from imagebeam.emulators.bigquery.api.datasets import DatasetApi
from imagebeam.emulators.bigquery.api.handlers import handler_factory
from imagebeam.emulators.bigquery.api.insert_all import RowInserter
from imagebeam.emulators.bigquery.api.jobs import JobApi
from imagebeam.emulators.bigquery.api.tables import TableApi
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.object_tables import ObjectTables
from imagebeam.emulators.bigquery.catalog.store import Store
from imagebeam.emulators.bigquery.faults import check_faults
from imagebeam.emulators.bigquery.jobs.manager import JobManager
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.storage.object_store import ObjectStore


class BigQueryService:
    """BigQuery of one project, stored in one DuckDB file.

    Args:
        database: The file; created if it does not exist.
        objects: Where load jobs read ``gs://``.
        project: The project.
        faults: Its section ``bigquery`` is applied: ``insert_failures`` (rows; ``do``: ``row_error``, ``http_503``
            or ``lost_answer``), ``rules`` (new jobs, matched by part of their SQL; ``do``: ``http``), ``ai`` (see
            `ai.faults`) and ``linked`` (see `access`).
        counters: Branch ``bigquery``: ``jobs``, ``dry_runs``, ``insert_requests``, ``inserted_rows`` ...
        seed: Seed of random failures.
    """

    def __init__(
        self,
        database: Path,
        objects: ObjectStore,
        project: str,
        faults: FaultConfig,
        counters: Counters,
        seed: int = 0,
    ) -> None:
        self._store = Store(database, project)
        object_tables, ai_faults = ObjectTables(self._store, objects), AiFaults(faults, seed, counters)
        self._catalog = Catalog(self._store, object_tables)
        self._store.install(Embedder(objects, object_tables, self._catalog.registry, ai_faults, counters).install)
        self._access = AccessControl(self._catalog, faults)
        self._jobs = JobManager(self._catalog, objects, faults, counters, ai_faults, self._access)
        self._inserter = RowInserter(self._catalog, faults, counters)
        faults.register("bigquery", check_faults)

    @property
    def catalog(self) -> Catalog:
        """The datasets and tables."""
        return self._catalog

    def close(self) -> None:
        """Stop all jobs and write the file."""
        self._jobs.close()
        self._store.close()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the API."""
        handler = handler_factory(self._access)
        return [
            *DatasetApi(self._catalog, self._access).routes(handler),
            *TableApi(self._catalog, self._access, self._inserter).routes(handler),
            *JobApi(self._catalog, self._jobs, self._access).routes(handler),
            *ConnectionApi(self._catalog).routes(handler),
        ]

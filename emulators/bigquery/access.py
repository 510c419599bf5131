"""Who may do what in the local BigQuery, and datasets that are linked to a publisher's.

Permissions: section ``access`` of the fault configuration. Linked datasets: section ``bigquery``, ``linked``::

    {"linked": {"imagery_insights___us": {"source": "publisher.imagery", "restricted": true}}}

A restricted one lets its rows be queried, but not be listed, nor written to another table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.core.access import Access, caller
from imagebeam.emulators.core.faults import FaultConfig, check_keys
from imagebeam.emulators.core.http import ApiError

SERVICE: Final = "bigquery.googleapis.com"

#: What a handler's caller needs, and whether on the project, the dataset or the table.
_NEEDS: Final[Mapping[str, tuple[str, str]]] = {
    "_create_dataset": ("datasets.create", "project"),
    "_get_dataset": ("datasets.get", "dataset"),
    "_create_table": ("tables.create", "dataset"),
    "_get_table": ("tables.get", "table"),
    "_delete_table": ("tables.delete", "table"),
    "_list_rows": ("tables.getData", "table"),
    "_insert_all": ("tables.updateData", "table"),
    "_insert_job": ("jobs.create", "project"),
}


class Gate:
    """Lets calls in, or does not.

    Args:
        catalog: The datasets.
        faults: The fault configuration.
    """

    def __init__(self, catalog: Catalog, faults: FaultConfig) -> None:
        self._catalog = catalog
        self._faults = faults
        self._access = Access(faults)

    def enter(self, request: web.Request, handler: str) -> None:
        """Check a call before its handler runs.

        Raises:
            ApiError: 403.
        """
        place = request.match_info
        project = place.get("project", self._catalog.project)
        self._access.require_api(SERVICE, project)
        if handler not in _NEEDS:
            return
        permission, level = _NEEDS[handler]
        dataset, table = place.get("dataset", ""), place.get("table", "")
        if dataset == self._catalog.results.dataset:
            return  # results are their owner's
        resource = f"projects/{project}"
        if level != "project":
            resource = f"{project}:{dataset}" + (f".{table}" if level == "table" else "")
        self._access.require(f"bigquery.{permission}", resource, caller(request.headers.get("Authorization")))
        if handler == "_list_rows" and self._restricted(dataset):
            raise _restricted(resource)

    def check_query(self, tables: Iterable[TableId], *, writes: bool) -> None:
        """Check that a query may read its tables.

        Args:
            tables: The tables and views that the query refers to.
            writes: Whether its rows are written to another table.

        Raises:
            ApiError: 403.
        """
        for ident in tables:
            if ident.dataset == self._catalog.results.dataset:
                continue
            self._access.require("bigquery.tables.getData", str(ident))
            if writes and self._restricted(ident.dataset):
                raise _restricted(str(ident))

    def granted(self, request: web.Request, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of ``tables.testIamPermissions``."""
        place, who = request.match_info, caller(request.headers.get("Authorization"))
        resource = f"{place['project']}:{place['dataset']}.{place['table']}"
        names = [name for name in body.get("permissions", ()) if self._access.allows(str(name), resource, who)]
        return {"permissions": names} if names else {}

    def shown(self, resource: dict[str, Any]) -> dict[str, Any]:
        """Return a dataset as the API shows it, with what a linked one has besides."""
        linked = self._faults.section("bigquery").get("linked", {}).get(resource["datasetReference"]["datasetId"])
        if linked is None:
            return resource
        project, _, dataset = linked["source"].partition(".")
        return resource | {
            "type": "LINKED",
            "linkedDatasetSource": {"sourceDataset": {"projectId": project, "datasetId": dataset}},
            "linkedDatasetMetadata": {"linkState": "LINKED"},
            **({"restrictions": {"type": "RESTRICTED_DATA_EGRESS"}} if linked.get("restricted") else {}),
        }

    def _restricted(self, dataset: str) -> bool:
        return bool(self._faults.section("bigquery").get("linked", {}).get(dataset, {}).get("restricted"))


def check_linked(linked: Mapping[str, Any]) -> None:
    """Refuse a misspelt ``linked``.

    Raises:
        ValueError: Names what is wrong.
    """
    for name, one in linked.items():
        check_keys(one, ("source", "restricted"), f"bigquery.linked.{name}")
        if len(str(one.get("source", "")).split(".")) != 2:
            raise ValueError(f"bigquery.linked.{name}.source must be project.dataset")


def _restricted(resource: str) -> ApiError:
    return ApiError(
        403,
        f"Access Denied: Table {resource}: The dataset has data egress restrictions enabled: copying, exporting and "
        "writing its data to another table are not allowed.",
        reason="accessDenied",
    )

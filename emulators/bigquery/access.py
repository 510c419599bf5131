"""Permissions of callers in the local BigQuery, and datasets linked to another project's dataset.

Permissions: section ``access`` of the fault configuration. Linked datasets: section ``bigquery``, ``linked``::

    {"linked": {"imagery_insights___us": {"source": "publisher.imagery", "restricted": true}}}

Rows of a restricted dataset can be queried, but neither listed nor written to another table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from aiohttp import web

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.core.access import Access, caller
from imagebeam.emulators.core.faults import FaultConfig, check_keys
from imagebeam.emulators.core.http import ApiError

SERVICE: Final = "bigquery.googleapis.com"


class Permission(NamedTuple):
    """A permission that a method of the API requires.

    Attributes:
        name: Name without the prefix ``bigquery.``.
        level: Resource that it is required on.
    """

    name: str
    level: Literal["project", "dataset", "table"]


CREATE_JOB: Final = Permission("jobs.create", "project")
GET_ROWS: Final = Permission("tables.getData", "table")


class AccessControl:
    """Check calls and queries against the current access rules.

    Args:
        catalog: The datasets.
        faults: The fault configuration.
    """

    def __init__(self, catalog: Catalog, faults: FaultConfig) -> None:
        self._catalog = catalog
        self._faults = faults
        self._access = Access(faults)

    def check_call(self, request: web.Request, permission: Permission | None) -> None:
        """Check a call before its handler runs.

        Args:
            request: The call.
            permission: What its method requires; None for methods without a check.

        Raises:
            ApiError: 403.
        """
        path = request.match_info
        project = path.get("project", self._catalog.project)
        self._access.require_api(SERVICE, project)
        if permission is None:
            return
        dataset, table = path.get("dataset", ""), path.get("table", "")
        if dataset == self._catalog.results.dataset:
            return  # query results belong to their creator
        resource = f"projects/{project}"
        if permission.level != "project":
            resource = f"{project}:{dataset}" + (f".{table}" if permission.level == "table" else "")
        self._access.require(f"bigquery.{permission.name}", resource, caller(request.headers.get("Authorization")))
        if permission == GET_ROWS and self._is_restricted(dataset):
            raise _egress_error(resource)

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
            if writes and self._is_restricted(ident.dataset):
                raise _egress_error(str(ident))

    def granted_permissions(self, request: web.Request, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response of ``tables.testIamPermissions``."""
        path, account = request.match_info, caller(request.headers.get("Authorization"))
        resource = f"{path['project']}:{path['dataset']}.{path['table']}"
        names = [name for name in body.get("permissions", ()) if self._access.allows(str(name), resource, account)]
        return {"permissions": names} if names else {}

    def add_link(self, resource: dict[str, Any]) -> dict[str, Any]:
        """Return a dataset resource with the properties of a linked dataset, if it is one."""
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

    def _is_restricted(self, dataset: str) -> bool:
        return bool(self._faults.section("bigquery").get("linked", {}).get(dataset, {}).get("restricted"))


def check_linked(linked: Mapping[str, Any]) -> None:
    """Validate the key ``linked`` of the section ``bigquery``.

    Raises:
        ValueError: A key is unknown, or ``source`` is not ``project.dataset``.
    """
    for name, settings in linked.items():
        check_keys(settings, ("source", "restricted"), f"bigquery.linked.{name}")
        if len(str(settings.get("source", "")).split(".")) != 2:
            raise ValueError(f"bigquery.linked.{name}.source must be project.dataset")


def _egress_error(resource: str) -> ApiError:
    return ApiError(
        403,
        f"Access Denied: Table {resource}: The dataset has data egress restrictions enabled: copying, exporting and "
        "writing its data to another table are not allowed.",
        reason="accessDenied",
    )

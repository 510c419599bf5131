"""Read the definitions of a remote model and an object table that the user already has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import google.api_core.exceptions as api_errors

from imagebeam.pipeline.embed_sql.ddl import Connection, Endpoint, ObjectTable
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.bigquery_errors import READ_RETRY, service_errors
from imagebeam.transforms.core.errors import UserError, first_line
from imagebeam.transforms.core.identifiers import TableName


@dataclasses.dataclass(frozen=True, slots=True)
class ExistingModel:
    """A remote model of the user.

    Attributes:
        name: Full name.
        endpoint: Its Vertex AI model.
        connection: Its connection.
    """

    name: TableName
    endpoint: Endpoint
    connection: Connection


@dataclasses.dataclass(frozen=True, slots=True)
class ExistingObjectTable:
    """An object table of the user.

    Attributes:
        name: Full name.
        objects: The URIs that it lists.
        connection: Its connection.
    """

    name: TableName
    objects: ObjectTable
    connection: Connection


def read_model(bq: BigQueryClient, text: str, project: str, location: str) -> ExistingModel:
    """Read the remote model that ``--remote_model`` names.

    Args:
        bq: BigQuery client.
        text: The value of the flag.
        project: Project of a name without one.
        location: Location of the results dataset.

    Raises:
        UserError: The model does not exist, is not a remote model of Google's, or is in another location.
        SystemicError: BigQuery cannot be used.
    """
    name = TableName.parse(text, project)
    resource = _read(bq, name, "--remote_model", "model")
    info = resource.get("remoteModelInfo") or {}
    endpoint = Endpoint.read(str(info.get("endpoint") or ""))
    if endpoint is None or not info.get("connection"):
        raise UserError(f"--remote_model: {name} is not a remote model over an embedding model of Google")
    _check_location("--remote_model", name, str(resource.get("location") or ""), location)
    return ExistingModel(name, endpoint, _connection(str(info["connection"]), name))


def read_object_table(bq: BigQueryClient, text: str, project: str, location: str) -> ExistingObjectTable:
    """Read the object table that ``--object_table`` names.

    Args:
        bq: BigQuery client.
        text: The value of the flag.
        project: Project of a name without one.
        location: Location of the results dataset.

    Raises:
        UserError: The table does not exist, is not an object table, or is in another location.
        SystemicError: BigQuery cannot be used.
    """
    name = TableName.parse(text, project)
    resource = _read(bq, name, "--object_table", "table")
    config = resource.get("externalDataConfiguration") or {}
    if config.get("objectMetadata") != "SIMPLE":
        raise UserError(
            f"--object_table: {name} is not an object table: create one with object_metadata = 'SIMPLE', or set "
            "--object_uris=gs://bucket/path/* instead"
        )
    _check_location("--object_table", name, str(resource.get("location") or ""), location)
    uris = tuple(str(uri) for uri in config.get("sourceUris") or ())
    return ExistingObjectTable(name, ObjectTable(uris), _connection(str(config.get("connectionId")), name))


def _read(bq: BigQueryClient, name: TableName, flag: str, kind: str) -> Mapping[str, Any]:
    get: Any = bq.client.get_model if kind == "model" else bq.client.get_table
    with service_errors(f"reading {kind} {name.dotted}"):
        try:
            resource: Mapping[str, Any] = get(name.dotted, retry=READ_RETRY).to_api_repr()
        except api_errors.NotFound:
            raise UserError(f"{flag}: {kind} {name} does not exist") from None
        except api_errors.Forbidden as error:
            raise UserError(
                f"{flag}: {kind} {name} cannot be read: {first_line(error)}; grant roles/bigquery.dataViewer on "
                f"dataset {name.project}.{name.dataset}"
            ) from None
    return resource


def _check_location(flag: str, name: TableName, found: str, location: str) -> None:
    if found.lower() != location.lower():
        raise UserError(
            f"{flag}: {name} is in {found}, but the results dataset is in {location}, and BigQuery needs both in one "
            "location: use another --results dataset"
        )


def _connection(text: str, name: TableName) -> Connection:
    found = Connection.parse(text, name.project)
    if found is None:
        raise UserError(f"{name} has no connection")
    return found

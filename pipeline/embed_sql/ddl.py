"""The resources that embedding in BigQuery needs: connection, IAM grants, object table and remote model.

Every statement is idempotent: it has ``IF NOT EXISTS``, and names contain a hash of the definition, so that another
endpoint or bucket gives another model or table. BigQuery allows no parameters in these statements: names are checked
by :mod:`imagebeam.transforms.core.identifiers` and the patterns here, and values are literals.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Sequence
from typing import Literal

from imagebeam.pipeline.diagnostics.iam_roles import (
    READER_ROLE,
    VERTEX_ROLE,
    bucket_grant_command,
    enable_command,
    project_grant_command,
)
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName, literal
from imagebeam.transforms.core.query import Parameter, Query
from imagebeam.transforms.core.text import quote

CacheMode = Literal["AUTOMATIC", "MANUAL"]

#: Bounds of a maximum staleness other than 0, in minutes (BigQuery, "Object tables").
STALENESS_MINUTES = (30, 7 * 24 * 60)

_PROJECT = re.compile(r"(?:[a-z0-9][a-z0-9.-]*\.[a-z]+:)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_LOCATION = re.compile(r"[a-z]+(?:-[a-z]+[0-9]+)?")
_CONNECTION = re.compile(r"\w[\w-]*", re.ASCII)
_CONNECTION_PATH = re.compile(r"projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/connections/(?P<name>[^/]+)")
_PREFIX = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/(?P<path>[^*\0-\x1f]*\*?[^*\0-\x1f]*)")
_MODEL = re.compile(r"[a-z][a-z0-9.-]*(?:@[a-z0-9]+)?")
_MODEL_URL = re.compile(
    r"https://[a-z0-9.-]*aiplatform[a-z0-9.-]*\.googleapis\.com/v1/projects/(?P<project>[a-z0-9.:-]+)"
    r"/locations/[a-z0-9-]+/publishers/google/models/(?P<model>[a-z][a-z0-9.-]*(?:@[a-z0-9]+)?)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Connection:
    """A Cloud resource connection; its name is validated on creation.

    Attributes:
        project: Project id.
        location: ``us``, ``eu`` or a region, in lower case.
        name: Connection id.

    Raises:
        UserError: A part is not a valid name.
    """

    project: str
    location: str
    name: str

    def __post_init__(self) -> None:
        """Validate the parts."""
        parts = ((self.project, _PROJECT), (self.location, _LOCATION), (self.name, _CONNECTION))
        if not all(pattern.fullmatch(text) for text, pattern in parts):
            raise UserError(
                f"--connection: {quote(self.dotted)} is not a connection; write LOCATION.NAME such as us.imagery, "
                "PROJECT.LOCATION.NAME, projects/PROJECT/locations/LOCATION/connections/NAME, or DEFAULT"
            )

    @classmethod
    def parse(cls, text: str, project: str) -> Connection | None:
        """Parse the name of a connection; return None for ``DEFAULT``.

        Args:
            text: ``location.name``, ``project.location.name`` or, as the console shows it,
                ``projects/project/locations/location/connections/name``.
            project: Project of a name without one.

        Raises:
            UserError: The text has none of these forms.
        """
        given = text.strip().replace("`", "")
        if given.upper() == "DEFAULT":
            return None
        if path := _CONNECTION_PATH.fullmatch(given):
            return cls(path["project"], path["location"].lower(), path["name"])
        before, _, name = given.rpartition(".")
        owner, _, location = before.rpartition(".")
        return cls(owner or project, location.lower(), name)

    @property
    def dotted(self) -> str:
        """The connection as SQL and ObjectRef spell it: ``project.location.name``."""
        return f"{self.project}.{self.location}.{self.name}"


def connection_sql(connection: Connection | None) -> str:
    """Return the connection as a statement names it."""
    return "DEFAULT" if connection is None else f"`{connection.dotted}`"


def check_connection_location(connection: Connection | None, dataset: str, location: str) -> None:
    """Check that a connection and the dataset are in one location.

    Raises:
        UserError: The locations differ.
    """
    if connection is not None and connection.location != location.lower():
        raise UserError(
            f"--connection={connection.dotted} is in {connection.location}, but dataset {dataset} is in {location}, "
            f"and a remote model needs both in one location: use a connection in {location.lower()}, or DEFAULT"
        )


def create_connection(connection: Connection) -> str:
    """Return the statement that creates the connection; it needs ``bigquery.connections.create``."""
    return (
        f"CREATE CONNECTION IF NOT EXISTS {connection_sql(connection)}\n"
        "OPTIONS (connection_type = 'CLOUD_RESOURCE', friendly_name = 'imagebeam')"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """The Vertex AI model of a remote model, by name or by URL.

    Attributes:
        text: Value of the option ``ENDPOINT``.
        model: Model id.
        project: Project in the URL, where the connection's account needs its role; None for a name.
    """

    text: str
    model: str
    project: str | None

    @classmethod
    def read(cls, text: str) -> Endpoint | None:
        """Return the endpoint of an existing remote model; None if it is not a model of Google's."""
        if _MODEL.fullmatch(text):
            return cls(text, text, None)
        project = re.search(r"/projects/([^/]+)/", text)
        model = re.search(r"/publishers/google/models/([^/:]+)", text)
        return cls(text, model[1], project[1] if project else None) if model else None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Parse the name of a model, or its URL on Vertex AI.

        Raises:
            UserError: The text is neither.
        """
        given = text.strip()
        if _MODEL.fullmatch(given):
            return cls(given, given, None)
        found = _MODEL_URL.fullmatch(given)
        if found is None:
            raise UserError(
                f"--endpoint: {quote(given)} is neither the name nor the URL of a model; write gemini-embedding-2 or "
                "https://REGION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/REGION/publishers/google/"
                "models/MODEL"
            )
        return cls(given, found["model"], found["project"])


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionGrants:
    """What the service accounts of the connections need.

    Attributes:
        project: Project where the model is called: that of the endpoint's URL, else that of the remote model.
        buckets: Names of buckets with images.
        caller: Account that calls the model; None if it is not known.
        reader: Account that reads the images; None if it is not known.
        find_caller: Command that shows the account that calls the model.
        find_reader: Command that shows the account that reads the images.
    """

    project: str
    buckets: tuple[str, ...]
    caller: str | None
    reader: str | None
    find_caller: str
    find_reader: str

    def commands(self) -> list[str]:
        """Return the commands that grant both roles, or that show the account if it is not known."""
        if self.caller is None or self.reader is None:
            return list(dict.fromkeys((self.find_caller, self.find_reader)))
        return grant_commands(self.project, self.caller, self.reader, self.buckets)

    def describe(self) -> str:
        """Return both roles with account and resource."""
        on = ", ".join(f"gs://{bucket}" for bucket in self.buckets) or "the images' bucket"
        caller = self.caller or f"the account that `{self.find_caller}` shows"
        reader = self.reader or f"the account that `{self.find_reader}` shows"
        return (
            f"{READER_ROLE} on {on} to {reader}, and {VERTEX_ROLE} on project {self.project}, where the model is "
            f"called, to {caller}"
        )


def grant_commands(project: str, caller: str, reader: str, buckets: Sequence[str]) -> list[str]:
    """Return the commands that let the accounts of the connections call the model and read the images.

    Args:
        project: Project where the model is called.
        caller: Service account that calls the model.
        reader: Service account that reads the images.
        buckets: Names of the buckets.
    """
    return [project_grant_command(project, f"serviceAccount:{caller}", VERTEX_ROLE)] + [
        bucket_grant_command(bucket, f"serviceAccount:{reader}", READER_ROLE) for bucket in sorted(set(buckets))
    ]


def account_command(connection: Connection | None, project: str, location: str) -> str:
    """Return the command that shows the service account of a connection."""
    name = f"{project}.{location.lower()}.__default_cloudresource_connection__"
    return f"bq show --connection --format=json {shlex.quote(connection.dotted if connection else name)}"


def create_connection_command(connection: Connection) -> str:
    """Return the command that creates a connection."""
    return (
        f"bq mk --connection --location={connection.location} --project_id={shlex.quote(connection.project)} "
        f"--connection_type=CLOUD_RESOURCE {shlex.quote(connection.name)}"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectTable:
    """An object table: the images below bucket prefixes as rows.

    Attributes:
        uris: Prefixes such as ``gs://bucket/obs/*``, one ``*`` each.
        staleness_minutes: Maximum age of the listing; 0 to list the buckets each time, otherwise 30 minutes to 7 days.
        cache_mode: Whether BigQuery refreshes the listing, or a statement.

    Raises:
        UserError: A prefix or the staleness is invalid.
    """

    uris: tuple[str, ...]
    staleness_minutes: int = 0
    cache_mode: CacheMode = "AUTOMATIC"

    def __post_init__(self) -> None:
        """Validate the definition."""
        if not self.uris:
            raise UserError("--object_uris is empty; use gs://bucket/path/*")
        for uri in self.uris:
            if not _PREFIX.fullmatch(uri):
                raise UserError(
                    f"--object_uris: {quote(uri)} is not a prefix; write gs://bucket/path/* with at most one *"
                )
        least, most = STALENESS_MINUTES
        if self.staleness_minutes and not least <= self.staleness_minutes <= most:
            raise UserError(
                f"--max_staleness_minutes={self.staleness_minutes}: BigQuery takes 0, or {least} to {most} (7 days)"
            )

    @property
    def buckets(self) -> tuple[str, ...]:
        """Names of the buckets."""
        return tuple(sorted({uri.removeprefix("gs://").partition("/")[0] for uri in self.uris}))


def listed_query(remaining: Query, objects: ObjectTable) -> Query:
    """Return the query for how many of the remaining images an object table lists.

    Its columns are ``images``, ``listed``, and ``outside``, the URI of one image that is not listed.

    Args:
        remaining: The query of the remaining units.
        objects: The object table.
    """
    conditions, parameters = [], list(remaining.parameters)
    for index, uri in enumerate(objects.uris):
        head, star, tail = uri.partition("*")
        parameters.append(Parameter(f"object_head_{index}", "STRING", head))
        if not star:
            conditions.append(f"uri = @object_head_{index}")
            continue
        parameters.append(Parameter(f"object_tail_{index}", "STRING", tail))
        conditions.append(f"STARTS_WITH(uri, @object_head_{index}) AND ENDS_WITH(uri, @object_tail_{index})")
    return Query(
        "SELECT COUNT(*) AS images, COUNT(IF(is_listed, 1, NULL)) AS listed,\n"
        "  MIN(IF(is_listed, NULL, uri)) AS outside\n"
        f"FROM (\n  SELECT uri, {' OR '.join(f'({one})' for one in conditions)} AS is_listed\n"
        f"  FROM (\n  SELECT remaining.images[SAFE_OFFSET(0)].uri AS uri\n"
        f"  FROM (\n{remaining.sql}\n  ) AS remaining\n  ) AS uris\n"
        "  WHERE STARTS_WITH(uri, 'gs://')\n) AS images",
        tuple(parameters),
    )


def object_table_name(dataset: TableName, objects: ObjectTable, connection: Connection | None) -> TableName:
    """Return the name of an object table, which depends on its definition."""
    parts = (*objects.uris, str(objects.staleness_minutes), objects.cache_mode, connection_sql(connection))
    return dataclasses.replace(dataset, table=f"_images_{_short_hash(parts)}")


def create_object_table(table: TableName, objects: ObjectTable, connection: Connection | None) -> str:
    """Return the statement that creates an object table."""
    options = ["object_metadata = 'SIMPLE'", f"uris = [{', '.join(literal(uri) for uri in objects.uris)}]"]
    if objects.staleness_minutes:
        options.append(f"max_staleness = INTERVAL {int(objects.staleness_minutes)} MINUTE")
        options.append(f"metadata_cache_mode = {literal(objects.cache_mode)}")
    return (
        f"CREATE EXTERNAL TABLE IF NOT EXISTS {table.sql()}\nWITH CONNECTION {connection_sql(connection)}\n"
        f"OPTIONS (\n  {f',{chr(10)}  '.join(options)}\n)"
    )


def refresh_object_table(table: TableName) -> str:
    """Return the statement that refreshes the listing of an object table with cache mode ``MANUAL``."""
    return f"CALL BQ.REFRESH_EXTERNAL_METADATA_CACHE({literal(table.dotted)})"


def model_name(dataset: TableName, endpoint: Endpoint, connection: Connection | None) -> TableName:
    """Return the name of a remote model, which depends on its endpoint and connection."""
    plain = re.sub(r"[^a-z0-9]+", "_", endpoint.model.lower()).strip("_")
    return dataclasses.replace(dataset, table=f"{plain}_{_short_hash((endpoint.text, connection_sql(connection)))}")


def create_model(model: TableName, endpoint: Endpoint, connection: Connection | None) -> str:
    """Return the statement that creates a remote model."""
    return (
        f"CREATE MODEL IF NOT EXISTS {model.sql()}\nREMOTE WITH CONNECTION {connection_sql(connection)}\n"
        f"OPTIONS (ENDPOINT = {literal(endpoint.text)})"
    )


def explain_rejection(
    message: str, *, connection: Connection | None, project: str, dataset: str, location: str, grants: ConnectionGrants
) -> str:
    """Return one line on why BigQuery rejects a statement of the setup, and how to fix it.

    Args:
        message: BigQuery's message.
        connection: The connection; None for the default connection.
        project: Project that runs the statement.
        dataset: The results dataset.
        location: Location of the dataset.
        grants: What the accounts of the connections need.
    """
    text = " ".join(message.split())[:300]
    if re.search(r"has not been used in project|api .*is disabled", text, re.IGNORECASE):
        service = "bigqueryconnection" if "connection" in text.lower() else "aiplatform"
        return f"{text}; run `{enable_command(f'{service}.googleapis.com', project)}`"
    if re.search(r"not found: connection|connection .*(not found|does not exist)", text, re.IGNORECASE):
        if connection is None:
            return (
                f"project {project} has no default connection in {location}, and creating it needs "
                f"roles/bigquery.admin: set --connection={location.lower()}.NAME"
            )
        return (
            f"connection {connection.dotted} does not exist: create it with "
            f"`{create_connection_command(connection)}`, or add --create_connection (needs "
            "roles/bigquery.connectionAdmin), or use --connection=DEFAULT"
        )
    if re.search(r"same (location|region)|in location|not co-?located", text, re.IGNORECASE):
        return (
            f"connection, model and dataset must be in one location, and dataset {dataset} is in {location}: {text}; "
            f"use a connection in {location.lower()}"
        )
    if re.search(r"does not have (the )?permission|permission denied|access denied", text, re.IGNORECASE):
        return (
            f"BigQuery cannot use the connection: {text}; grant {grants.describe()}: run "
            f"`{' && '.join(grants.commands())}`; a grant on another project has no effect, and a new one takes some "
            "minutes"
        )
    return f"BigQuery rejects the statement: {text}"


def _short_hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]

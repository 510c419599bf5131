"""Check input, output and model of a job before anything is created."""

from __future__ import annotations

import dataclasses
from typing import Final

import google.api_core.exceptions as api_errors
import orjson

from imagebeam.pipeline.batch_input.results import ANY_ANSWER
from imagebeam.pipeline.batch_input.settings import InputSettings
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient, TableInfo
from imagebeam.transforms.core.errors import UserError, first_line
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.images import parse_gs_uri
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.gemini.batch_requests import MAX_LINES
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.model_profiles import ModelProfile

#: Maximum size of an input file (Google, "Batch inference").
MAX_BYTES: Final = 1_000_000_000
#: Bytes at the start of an input file whose lines are checked.
HEAD_BYTES: Final = 65_536
#: Types that input tables cannot have (Google, "Batch inference for BigQuery").
UNSUPPORTED_TYPES: Final = frozenset({"RECORD", "STRUCT", "DATETIME", "GEOGRAPHY", "RANGE"})
_MULTI_REGIONS: Final = ("us", "eu")


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """An input that exists.

    Attributes:
        version: Changes with its content.
        location: Location of its dataset; None for a file.
    """

    version: str
    location: str | None = None


def read_input(settings: InputSettings) -> Input:
    """Check the input, and return its version.

    Raises:
        UserError: It does not exist, cannot be read, or is not an input of a batch job.
    """
    where = f"--input={settings.source}"
    if settings.source.startswith("bq://"):
        table = _table(settings.source, where)
        found = BigQueryClient(settings.project).get_table(table)
        if found is None:
            raise UserError(f"{where}: the table does not exist, or you cannot access it")
        _check_columns(found, where)
        return Input(f"{found.modified} {found.rows}", found.location)
    place = parse_gs_uri(settings.source)
    if place is None or place[1].endswith("/"):
        raise UserError(f"{where} is not a file; write gs://bucket/file.jsonl")
    try:
        blob = storage.storage_client().bucket(place[0]).get_blob(place[1])
        if blob is None:
            raise UserError(f"{where}: the object does not exist; `gcloud storage ls {settings.source}` lists it")
        head = bytes(blob.download_as_bytes(end=HEAD_BYTES - 1)) if blob.size else b""
    except (api_errors.Forbidden, api_errors.NotFound) as error:
        raise UserError(
            f"{where} cannot be read: {first_line(error)}", permission="storage.objects.get: roles/storage.objectViewer"
        ) from None
    if int(blob.size or 0) > MAX_BYTES:
        raise UserError(f"{where} has {blob.size:,} bytes; a job reads at most {MAX_BYTES:,}: split it into several")
    _check_lines(head, where, whole=int(blob.size or 0) <= HEAD_BYTES)
    return Input(str(blob.generation))


def resolve_location(settings: InputSettings, found: Input) -> str:
    """Return the location of the job, and check that model, input and output can be used there.

    Raises:
        UserError: They cannot, or the output cannot be written.
    """
    bq, table = BigQueryClient(settings.project), None
    places = [("--input", found.location)] if found.location else []
    if settings.destination.startswith("bq://"):
        table = _table(settings.destination, f"--output={settings.destination}")
        dataset_location = bq.get_dataset_location(table.project, table.dataset)
        if dataset_location is None:
            raise UserError(
                f"--output={settings.destination}: dataset {table.project}.{table.dataset} does not exist, or you "
                "cannot access it",
                fix=f"create it with `bq mk --location=REGION {table.project}:{table.dataset}`",
            )
        places.append(("--output", dataset_location))
    location = settings.location or (places[0][1].lower() if places else "global")
    for flag, where in places:
        _check_region(flag, where, location)
    profile = find_profile(settings)
    if location in _MULTI_REGIONS and not _embeds(settings):
        raise UserError(f"batch jobs run at global or in a region, and --location={location} is neither")
    profile.check(location, Lane.BATCH, ANY_ANSWER)
    if table is not None:
        if (existing := bq.get_table(table)) is not None and existing.rows:
            raise UserError(
                f"--output={settings.destination} has {existing.rows:,} rows, and the answers could not be told from "
                "them: use a table that does not exist yet"
            )
    else:
        _check_directory(settings.destination)
    return location


def find_profile(settings: InputSettings) -> ModelProfile:
    """Return the profile of the model; one without prices if the models file does not have it.

    Raises:
        UserError: The models file is invalid, or has no model ``price_as``.
    """
    models = catalog.load_models_file(settings.models_file)
    name = settings.model.name
    return models.embedding(name) if _embeds(settings) else models.profile(name, price_as=settings.price_as)


def _embeds(settings: InputSettings) -> bool:
    return settings.model.name in catalog.load_models_file(settings.models_file).embeddings


def _table(text: str, where: str) -> TableName:
    try:
        return TableName.parse(text.removeprefix("bq://"))
    except UserError:
        raise UserError(f"{where} is not a table; write bq://project.dataset.table") from None


def _check_columns(table: TableInfo, where: str) -> None:
    if table.kind != "TABLE":
        raise UserError(f"{where} is a {table.kind.lower()}; batch jobs read tables only: save it as a table")
    names = {str(field["name"]).lower() for field in table.schema}
    if "request" not in names:
        raise UserError(f"{where} has no column request with the requests; its columns are {', '.join(sorted(names))}")
    if len(names & {"response", "status"}) == 1:
        raise UserError(f"{where}: columns response and status are those of an earlier output: have both, or neither")
    for field in table.schema:
        if field.get("mode") == "REPEATED" or field["type"] in UNSUPPORTED_TYPES:
            kind = "ARRAY" if field.get("mode") == "REPEATED" else field["type"]
            raise UserError(f"{where}: batch jobs do not support column {field['name']} of type {kind}: leave it out")
    if table.rows > MAX_LINES:
        raise UserError(f"{where} has {table.rows:,} rows; a job reads at most {MAX_LINES:,}: split it into several")


def _check_lines(head: bytes, where: str, *, whole: bool) -> None:
    """Check the lines at the start of a file; the last one is incomplete unless this is the whole file."""
    lines = head.split(b"\n")
    for number, line in enumerate(lines if whole else lines[:-1], 1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{where}, line {number} is not JSON: {error}; every line is one request") from None
        if not isinstance(document, dict) or not isinstance(document.get("request"), dict):
            raise UserError(f'{where}, line {number} has no request; write {{"request": {{"contents": [...]}}}}')
    if not head.strip():
        raise UserError(f"{where} is empty")


def _check_region(flag: str, dataset: str, location: str) -> None:
    """Check that a dataset is in the region of the job.

    Raises:
        UserError: It is not.
    """
    if dataset.lower() in _MULTI_REGIONS:
        raise UserError(
            f"{flag} is in multi-region {dataset}, and batch jobs use tables of a region only",
            fix="use a dataset in a region such as us-central1, or gs://",
        )
    if location == "global":
        raise UserError(
            f"{flag} is a table in {dataset}, and batch jobs at global use files only",
            fix=f"use --location={dataset.lower()} with a model of that region, or gs://",
        )
    if dataset.lower() != location.lower():
        raise UserError(
            f"{flag} is in {dataset}, but the job at {location}: they must be in the same region",
            fix=f"use --location={dataset.lower()}, or gs://",
        )


def _check_directory(destination: str) -> None:
    place = parse_gs_uri(f"{destination}/file")
    if place is None:
        raise UserError(f"--output={destination} is not a directory; write gs://bucket/directory")
    try:
        list(storage.storage_client().list_blobs(place[0], max_results=1))
    except api_errors.NotFound:
        raise UserError(
            f"--output={destination}: bucket {place[0]} does not exist",
            fix=f"gcloud storage buckets create gs://{place[0]}",
        ) from None
    except api_errors.Forbidden:
        return  # the account that writes there is Vertex AI's, not this one

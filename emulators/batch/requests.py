"""Validation of ``batchPredictionJobs.create`` requests."""

import re
from dataclasses import dataclass
from typing import Any, Final

from imagebeam.emulators.batch.faults import MAX_EMBEDDING_LINES, MAX_LINES
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, embedding_model, find_embedding_model
from imagebeam.emulators.vertex.generate.fields import invalid, read_fields
from imagebeam.emulators.vertex.models import Model, find_model
from imagebeam.emulators.vertex.tuned import TUNED_BASE, model_resource

_NAME_CHARS: Final = 128
_KNOWN: Final = (
    "displayName", "model", "inputConfig", "outputConfig", "labels", "name", "state", "modelParameters",
    "instanceConfig", "dedicatedResources", "manualBatchTuningParameters", "generateExplanation", "explanationSpec",
    "encryptionSpec", "serviceAccount", "disableContainerLogging", "unmanagedContainerModel", "modelVersionId",
)  # fmt: skip
#: Fields that Gemini jobs do not support (Google, "Batch inference with Gemini").
_REFUSED: Final = (
    "encryptionSpec", "serviceAccount", "modelParameters", "dedicatedResources", "unmanagedContainerModel",
    "explanationSpec",
)  # fmt: skip
_GS: Final = re.compile(r"gs://([^/*]+)/([^*]+)")
_PREFIX: Final = re.compile(r"gs://([^/*]+)(/[^*]*)?")
_PUBLISHER: Final = re.compile(
    r"(?:projects/[^/]+/locations/(?P<place>[^/]+)/)?publishers/google/models/(?P<name>[^/]+)"
)
_TUNED: Final = re.compile(r"projects/(?P<project>[^/]+)/locations/(?P<place>[^/]+)/models/(?P<id>\d+(?:@[\w-]+)?)")


@dataclass(frozen=True, slots=True)
class GcsFile:
    """A Cloud Storage object or prefix."""

    bucket: str
    name: str

    @property
    def uri(self) -> str:
        """``gs://bucket/name``."""
        return f"gs://{self.bucket}/{self.name}"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A checked create request.

    Attributes:
        display_name: Display name, not necessarily unique.
        location: ``global`` or a region.
        model: The model.
        source: JSONL file or table.
        destination: Prefix or table; for a dataset the table name is empty.
        echo: Fields of the request that the resource repeats.
    """

    display_name: str
    location: str
    model: Model | EmbeddingModel
    source: GcsFile | TableId
    destination: GcsFile | TableId
    echo: dict[str, Any]


def read_create(body: dict[str, Any], project: str, location: str, retired: tuple[str, ...]) -> JobSpec:
    """Check a create request.

    Args:
        body: JSON body, in camelCase or snake_case.
        project: Project in the path.
        location: Location in the path.
        retired: IDs of models to treat as retired.

    Raises:
        ApiError: 400 for an invalid request, 404 for a model that does not exist.
    """
    fields = read_fields(body, _KNOWN, "batch_prediction_job")
    name = fields.get("displayName")
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_CHARS:
        raise invalid("batch_prediction_job.display_name", f"must have 1 to {_NAME_CHARS} characters")
    for key in _REFUSED:
        if key in fields:
            raise ApiError(400, f"{key} is not supported for Gemini batch prediction.")
    model = _model(fields.get("model"), project, location, retired)
    embeds = isinstance(model, EmbeddingModel)
    if location in ("us", "eu") and not embeds:
        raise ApiError(400, f"Batch prediction is not supported in multi-region {location}: use global or a region.")
    source = _source(fields.get("inputConfig"))
    destination = _destination(fields.get("outputConfig"))
    for table in (source, destination):
        if isinstance(table, TableId) and embeds:
            raise ApiError(
                400, f"BigQuery tables are not supported for Gemini embedding models such as {model.name}: use gs://."
            )
        if isinstance(table, TableId) and location == "global":
            raise ApiError(
                400, "Batch predictions using BigQuery do not support the global endpoint: use a region, or gs://."
            )
    labels = fields.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise invalid("batch_prediction_job.labels", "must be an object of strings")
    echo = {"displayName": name, "model": fields.get("model")}
    echo |= {key: fields[key] for key in ("inputConfig", "outputConfig")}
    echo |= {"labels": labels} if labels else {}
    return JobSpec(name, location, model, source, destination, echo)


def max_lines(model: Model | EmbeddingModel) -> int:
    """Return the maximum number of requests in a job of a model."""
    return MAX_EMBEDDING_LINES if isinstance(model, EmbeddingModel) else MAX_LINES


def _model(name: Any, project: str, location: str, retired: tuple[str, ...]) -> Model | EmbeddingModel:
    found = _PUBLISHER.fullmatch(name) if isinstance(name, str) else None
    if found is not None:
        _check_same_location(found["place"], location)
        known = found["name"].removesuffix("@default")
        if embedding_model(known) is None:
            return find_model(known, project, location, retired)
        embeds = find_embedding_model(known, project, location, retired)
        if embeds.method != "embedContent":
            raise ApiError(400, f"Batch prediction is not supported for model {known}.")
        return embeds
    tuned = _TUNED.fullmatch(name) if isinstance(name, str) else None
    if tuned is None:
        raise invalid(
            "batch_prediction_job.model",
            f"{name!r} is not of the form publishers/google/models/NAME or projects/P/locations/L/models/ID",
        )
    if location == "global":
        raise ApiError(400, f"Tuned models are not supported in batch prediction at global: {name}.")
    _check_same_location(tuned["place"], location)
    model_resource(tuned["project"], location, tuned["id"])
    return find_model(TUNED_BASE, project, location, retired)


def _check_same_location(place: str | None, location: str) -> None:
    if place not in (None, location):
        raise ApiError(400, f"The model is in {place} and the job in {location}: they must be in one location.")


def _source(config: Any) -> GcsFile | TableId:
    known = ("instancesFormat", "gcsSource", "bigquerySource", "vertexMultimodalDatasetSource")
    fields = read_fields(config, known, "batch_prediction_job.input_config")
    form = fields.get("instancesFormat")
    if form == "jsonl" and "gcsSource" in fields:
        uris = read_fields(fields["gcsSource"], ("uris",), "input_config.gcs_source").get("uris")
        uris = [uris] if isinstance(uris, str) else uris
        if not isinstance(uris, list) or len(uris) != 1:
            raise ApiError(400, "Gemini batch prediction takes exactly one JSONL file: give gcs_source one URI.")
        return _file(uris[0], "input_config.gcs_source.uris[0]")
    if form == "bigquery" and "bigquerySource" in fields:
        uri = read_fields(fields["bigquerySource"], ("inputUri",), "input_config.bigquery_source").get("inputUri")
        table = _table(uri, "input_config.bigquery_source.input_uri")
        if not table.table:
            raise invalid("input_config.bigquery_source.input_uri", f"{uri!r} names no table")
        return table
    raise ApiError(
        400,
        f"Unsupported input: instancesFormat {form!r} with {', '.join(sorted(fields)) or 'nothing'}. "
        "Use jsonl with gcsSource, or bigquery with bigquerySource.",
    )


def _destination(config: Any) -> GcsFile | TableId:
    known = ("predictionsFormat", "gcsDestination", "bigqueryDestination", "vertexMultimodalDatasetDestination")
    fields = read_fields(config, known, "batch_prediction_job.output_config")
    form = fields.get("predictionsFormat")
    if form == "jsonl" and "gcsDestination" in fields:
        given = read_fields(fields["gcsDestination"], ("outputUriPrefix",), "output_config.gcs_destination")
        return _prefix(given.get("outputUriPrefix"), "output_config.gcs_destination.output_uri_prefix")
    if form == "bigquery" and "bigqueryDestination" in fields:
        given = read_fields(fields["bigqueryDestination"], ("outputUri",), "output_config.bigquery_destination")
        return _table(given.get("outputUri"), "output_config.bigquery_destination.output_uri")
    raise ApiError(
        400,
        f"Unsupported output: predictionsFormat {form!r} with {', '.join(sorted(fields)) or 'nothing'}. "
        "Use jsonl with gcsDestination, or bigquery with bigqueryDestination.",
    )


def _file(uri: Any, path: str) -> GcsFile:
    found = _GS.fullmatch(uri) if isinstance(uri, str) else None
    if found is None:
        raise invalid(path, f"{uri!r} is not the URI of a Cloud Storage object such as gs://bucket/name")
    return GcsFile(found[1], found[2])


def _prefix(uri: Any, path: str) -> GcsFile:
    found = _PREFIX.fullmatch(uri) if isinstance(uri, str) else None
    if found is None:
        raise invalid(path, f"{uri!r} is not a Cloud Storage URI such as gs://bucket/prefix")
    return GcsFile(found[1], (found[2] or "").strip("/"))


def _table(uri: Any, path: str) -> TableId:
    parts = uri.removeprefix("bq://").split(".") if isinstance(uri, str) and uri.startswith("bq://") else []
    if len(parts) not in (2, 3) or not all(parts):
        raise invalid(path, f"{uri!r} is not a BigQuery URI such as bq://project.dataset.table")
    return TableId(parts[0], parts[1], parts[2] if len(parts) == 3 else "")

"""What a ``batchPredictionJobs.create`` asks for, and every reason for which it is refused."""

import re
from dataclasses import dataclass
from typing import Any, Final

from imagebeam.emulators.batch.faults import MOST_EMBEDDING_LINES, MOST_LINES
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, embedding_model, find_embedding_model
from imagebeam.emulators.vertex.generate.fields import invalid, read_fields
from imagebeam.emulators.vertex.models import TUNED, Model, find_model

_NAME_CHARS: Final = 128
_KNOWN: Final = (
    "displayName", "model", "inputConfig", "outputConfig", "labels", "name", "state", "modelParameters",
    "instanceConfig", "dedicatedResources", "manualBatchTuningParameters", "generateExplanation", "explanationSpec",
    "encryptionSpec", "serviceAccount", "disableContainerLogging", "unmanagedContainerModel", "modelVersionId",
)  # fmt: skip
#: Not for Gemini (Google, "Batch inference with Gemini").
_REFUSED: Final = (
    "encryptionSpec", "serviceAccount", "modelParameters", "dedicatedResources", "unmanagedContainerModel",
    "explanationSpec",
)  # fmt: skip
_GS: Final = re.compile(r"gs://([^/*]+)/([^*]+)")
_PREFIX: Final = re.compile(r"gs://([^/*]+)(/[^*]*)?")
_PUBLISHER: Final = re.compile(
    r"(?:projects/[^/]+/locations/(?P<place>[^/]+)/)?publishers/google/models/(?P<name>[^/]+)"
)
_OWN: Final = re.compile(r"projects/[^/]+/locations/(?P<place>[^/]+)/(?:models|endpoints)/(?P<id>\d+)(?:@[\w-]+)?")


@dataclass(frozen=True, slots=True)
class GcsFile:
    """An object of Cloud Storage, or the beginning of names there."""

    bucket: str
    name: str

    @property
    def uri(self) -> str:
        """``gs://bucket/name``."""
        return f"gs://{self.bucket}/{self.name}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A create that is taken.

    Attributes:
        display_name: Not unique.
        location: ``global`` or a region.
        model: Who answers.
        source: The JSONL file or the table.
        destination: A prefix or a table; of a dataset, the table's name is empty.
        echo: What the resource repeats of the request.
    """

    display_name: str
    location: str
    model: Model | EmbeddingModel
    source: GcsFile | TableId
    destination: GcsFile | TableId
    echo: dict[str, Any]


def read_create(body: dict[str, Any], project: str, location: str, retired: tuple[str, ...]) -> Asked:
    """Check a request.

    Args:
        body: Its JSON, in camelCase or snake_case.
        project: Of its path.
        location: Of its path.
        retired: Models that are not to exist.

    Raises:
        ApiError: 400, or 404 for a model that is not there.
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
        raise invalid("batch_prediction_job.labels", "must be an object of texts")
    echo = {"displayName": name, "model": fields.get("model")}
    echo |= {key: fields[key] for key in ("inputConfig", "outputConfig")}
    echo |= {"labels": labels} if labels else {}
    return Asked(name, location, model, source, destination, echo)


def most_lines(model: Model | EmbeddingModel) -> int:
    """Return how many requests a job of a model may have."""
    return MOST_EMBEDDING_LINES if isinstance(model, EmbeddingModel) else MOST_LINES


def _model(name: Any, project: str, location: str, retired: tuple[str, ...]) -> Model | EmbeddingModel:
    found = _PUBLISHER.fullmatch(name) if isinstance(name, str) else None
    if found is not None:
        _same_place(found["place"], location)
        known = found["name"].removesuffix("@default")
        if embedding_model(known) is None:
            return find_model(known, project, location, retired)
        embeds = find_embedding_model(known, project, location, retired)
        if embeds.method != "embedContent":
            raise ApiError(400, f"Batch prediction is not supported for model {known}.")
        return embeds
    own = _OWN.fullmatch(name) if isinstance(name, str) else None
    if own is None:
        raise invalid("batch_prediction_job.model", f"{name!r} is no model: publishers/google/models/NAME")
    if location == "global":
        raise ApiError(400, f"Tuned models are not supported in batch prediction at global: {name}.")
    _same_place(own["place"], location)
    return find_model(TUNED, project, location, retired)


def _same_place(place: str | None, location: str) -> None:
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
        raise invalid(path, f"{uri!r} is no URI of one Cloud Storage object such as gs://bucket/name")
    return GcsFile(found[1], found[2])


def _prefix(uri: Any, path: str) -> GcsFile:
    found = _PREFIX.fullmatch(uri) if isinstance(uri, str) else None
    if found is None:
        raise invalid(path, f"{uri!r} is no Cloud Storage URI such as gs://bucket/prefix")
    return GcsFile(found[1], (found[2] or "").strip("/"))


def _table(uri: Any, path: str) -> TableId:
    parts = uri.removeprefix("bq://").split(".") if isinstance(uri, str) and uri.startswith("bq://") else []
    if len(parts) not in (2, 3) or not all(parts):
        raise invalid(path, f"{uri!r} is no BigQuery URI such as bq://project.dataset.table")
    return TableId(parts[0], parts[1], parts[2] if len(parts) == 3 else "")

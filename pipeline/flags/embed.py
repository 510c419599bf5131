"""Settings of ``imagebeam embed`` that ``imagebeam classify`` does not have, or has with another help text."""

from typing import Annotated, Final, Literal

from imagebeam.pipeline.flags.execution import BatchSettings
from imagebeam.pipeline.flags.inputs import TABLE, TABLE_FORM
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.transforms.core.records import Lane, Transport, UnitKind
from imagebeam.transforms.tasks.embedding import DEFAULT_MODEL, MODELS

#: Why lane sql does not run on Dataflow.
NO_DATAFLOW: Final = (
    "BigQuery calls the model, so Dataflow workers would only wait; run imagebeam embed --lane=sql without "
    "--runner, on any small machine"
)


# fmt: off
class VectorSettings(Settings, group=Group.TASK, in_file=False):
    """The embedding model, its vectors and the preparation of images."""

    model: Annotated[str | None, Setting(
        "Embedding model. Vectors of different models cannot be compared.", metavar="MODEL",
        choices=tuple(MODELS), example="multimodalembedding@001"
    )] = DEFAULT_MODEL
    dimension: Annotated[int, Setting(
        "Length of the vectors: 1 to 3072 for gemini-embedding-2; 128, 256, 512 or 1408 for multimodalembedding@001.",
        minimum=1, example="768", computed="the longest")] = 0
    unit: Annotated[UnitKind | None, Setting(
        "Each vector is for one observation; its row has the asset_id.",
        choices=(UnitKind.OBSERVATION,), example="observation")] = UnitKind.OBSERVATION
    crop: Annotated[Literal["none", "bbox"], Setting(
        "bbox: embed only the bounding box of the object. Sends bytes instead of URIs.", example="bbox")] = "none"
    padding: Annotated[float | None, Setting(
        "Margin around the box, as a fraction of its longer side.",
        metavar="FRACTION", minimum=0, maximum=1, example="0.1")] = None
    max_side: Annotated[int | None, Setting(
        "Downscale images to at most N pixels per side before sending. Sends bytes instead of URIs.",
        minimum=64, maximum=8192, example="1024")] = None
    vector_index: Annotated[bool, Setting(
        "Create a vector index on the table after the run, if it has none.",
        example="true", group=Group.RESULTS)] = False
    lane: Annotated[Lane, Setting(
        "online: one call per image. batch: half the price, batch jobs that take hours; gemini-embedding-2 only. sql: "
        "BigQuery calls the model.",
        choices=(Lane.ONLINE, Lane.BATCH, Lane.SQL), example="batch")] = Lane.ONLINE
    transport: Annotated[Transport, Setting(
        "Send the image's URI, or its bytes (inline). auto tests one image by URI with a paid call; with --max_calls "
        "or --max_cost_usd it sends bytes.",
        example="inline", in_file=True)] = Transport.AUTO
    max_rpm: Annotated[int | None, Setting(
        "Limit calls per minute, over all workers.", minimum=1, example="600", in_file=True,
        computed="the rate that the service grants; for multimodalembedding@001 its published quota, 600, or 120 in "
        "Europe")] = None


class EmbedBatchSettings(BatchSettings, group=Group.BATCH, in_file=False):
    """Batch jobs; ``imagebeam.yaml`` configures those of classify."""

    batch_lines: Annotated[int, Setting(
        "Put at most N images into one job. Collecting a job needs local disk space for two copies of its answers, 3 "
        "GB each for 50,000 vectors of 3,072 dimensions.",
        minimum=1, maximum=200_000, example="100000")] = 50_000
    batch_fallback: Annotated[Lane, Setting(
        "Lane of the units that remain after --batch_deadline_s.",
        choices=(Lane.ONLINE,), example="online")] = Lane.ONLINE


class SqlSettings(Settings, group=Group.SQL, in_file=False):
    """Embeddings in BigQuery."""

    connection: Annotated[str, Setting(
        "BigQuery connection whose service account calls the model and reads the images: LOCATION.NAME, "
        "projects/PROJECT/locations/LOCATION/connections/NAME, or DEFAULT.",
        metavar="CONNECTION", example="us.imagery")] = "DEFAULT"
    create_connection: Annotated[bool, Setting(
        "Create the connection if it does not exist, and print the IAM grants it needs.", example="true")] = False
    endpoint: Annotated[str | None, Setting(
        "Vertex AI endpoint of the remote model: a model name or URL.",
        metavar="ENDPOINT", example="gemini-embedding-2-preview", computed="--model")] = None
    remote_model: Annotated[str | None, Setting(
        "Call this remote model instead of creating one. Its connection takes the place of --connection.",
        metavar="MODEL", pattern=TABLE, form="project.dataset.model or dataset.model",
        example="mydataset.embedding_model")] = None
    object_table: Annotated[str | None, Setting(
        "Read images through this object table instead of creating one.",
        metavar="TABLE", pattern=TABLE, form=TABLE_FORM, example="mydataset.images")] = None
    object_uris: Annotated[tuple[str, ...], Setting(
        "Create an object table over these URI prefixes, and read images through it instead of directly.",
        metavar="URI,…", pattern=r"gs://[^,]+", form="gs://bucket/path/*", repeatable=True,
        example="gs://my-bucket/obs/*")] = ()
    max_staleness_minutes: Annotated[int, Setting(
        "Maximum age of the object table's metadata: 0, or 30 to 10080.",
        minimum=0, maximum=10_080, example="240")] = 0
    metadata_cache_mode: Annotated[Literal["AUTOMATIC", "MANUAL"], Setting(
        "How BigQuery refreshes the object table's metadata cache. MANUAL refreshes it in every run.",
        example="MANUAL")] = "AUTOMATIC"
    rows_per_job: Annotated[int, Setting(
        "Embed at most N images per job. BigQuery ends a job after six hours.",
        minimum=1, maximum=1_440_000, example="200000")] = 40_000
    max_passes: Annotated[int, Setting(
        "Retry failed images in at most N passes.", minimum=1, maximum=1_000, example="5")] = 20
    pass_pause_s: Annotated[float, Setting(
        "Wait this long before the next pass; doubled after each pass that embeds nothing.",
        minimum=0, maximum=3_600, example="60")] = 10.0
    dry_run: Annotated[bool, Setting("Print the SQL statements instead of running them.", example="true")] = False
# fmt: on


#: Settings that are for ``--lane=sql`` only.
SQL_ONLY: Final[Flags] = flags_of(SqlSettings)

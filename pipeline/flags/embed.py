"""The flags of ``imagebeam embed``: most are those of classify, some of the same name mean something else here."""

import dataclasses
from typing import Final

from imagebeam.pipeline.flags.classify import BATCH_ONLY, CLASSIFY, Flag, Group, Kind

# fmt: off
MODEL = Flag(
    "model", Kind.TEXT, "Embedding model. Vectors of two models cannot be compared.",
    Group.ASK, default="gemini-embedding-2", choices=("gemini-embedding-2", "multimodalembedding@001"),
    example="multimodalembedding@001", in_file=False,
)
DIMENSION = Flag(
    "dimension", Kind.INTEGER, "Length of the vectors: 1 to 3072 of gemini-embedding-2; 128, 256, 512 or 1408 of "
    "multimodalembedding@001. Default: the longest.",
    Group.ASK, minimum=1, example="768", in_file=False,
)
UNIT = Flag(
    "unit", Kind.TEXT, "A vector is of one image. Those of an asset's images carry its asset_id.",
    Group.ASK, default="observation", choices=("observation",), example="observation", in_file=False,
)
CROP = Flag(
    "crop", Kind.TEXT, "bbox: embed only what the bounding box shows. Sends the bytes.",
    Group.ASK, default="none", choices=("none", "bbox"), example="bbox", in_file=False,
)
PADDING = Flag(
    "padding", Kind.NUMBER, "Margin around the box, as a share of its longer side.",
    Group.ASK, minimum=0, maximum=1, example="0.1", in_file=False,
)
MAX_SIDE = Flag(
    "max_side", Kind.INTEGER, "Downscale images to so many pixels before they are sent. Sends the bytes.",
    Group.ASK, minimum=64, maximum=8192, example="1024", in_file=False,
)
VECTOR_INDEX = Flag(
    "vector_index", Kind.BOOLEAN, "Make a vector index of the table after the run, if it has none.",
    Group.RESULTS, default=False, example="true", in_file=False,
)
LANE = Flag(
    "lane", Kind.TEXT, "online: one call per image, at the pace of the quota. batch: half the price, jobs, hours; for "
    "gemini-embedding-2. sql: BigQuery asks the model itself.",
    Group.MODEL, default="online", choices=("online", "batch", "sql"), example="batch", in_file=False,
)
TRANSPORT = Flag(
    "transport", Kind.TEXT, "Send the image's URI or its bytes. auto embeds one image by URI first, a call that is "
    "paid like any other; with --max_calls or --max_cost_usd it sends the bytes.",
    Group.MODEL, default="auto", choices=("auto", "uri", "inline"), example="inline",
)
MAX_RPM = Flag(
    "max_rpm", Kind.INTEGER, "Calls per minute at most. multimodalembedding@001 has a fixed quota: without this flag "
    "its published one is the ceiling (600; 120 in Europe). gemini-embedding-2: what the service grants.",
    Group.LIMITS, minimum=1, example="600",
)

BATCH_LINES = Flag(
    "batch_lines", Kind.INTEGER, "Images per job at most. Collecting a job needs room on disk for its answers, twice: "
    "3 GB for 50,000 vectors of 3,072 numbers.",
    Group.BATCH, default=50_000, minimum=1, maximum=200_000, example="100000", in_file=False,
)
BATCH_FALLBACK = Flag(
    "batch_fallback", Kind.TEXT, "That lane. There is no other one for embeddings.",
    Group.BATCH, default="online", choices=("online",), example="online", in_file=False,
)

CONNECTION = Flag(
    "connection", Kind.TEXT, "Connection whose account asks the model and reads the images: LOCATION.NAME, or DEFAULT.",
    Group.SQL, default="DEFAULT", example="us.imagery", in_file=False,
)
CREATE_CONNECTION = Flag(
    "create_connection", Kind.BOOLEAN, "Make the connection if it is not there, and print the grants that it needs.",
    Group.SQL, default=False, example="true", in_file=False,
)
ENDPOINT = Flag(
    "endpoint", Kind.TEXT, "The model as BigQuery is to call it: a name or a URL on Vertex AI. Else --model.",
    Group.SQL, example="gemini-embedding-2-preview", in_file=False,
)
OBJECT_URIS = Flag(
    "object_uris", Kind.NAMES, "Read images through an object table over these prefixes. Else from their URIs.",
    Group.SQL, default=(), pattern=r"gs://[^,]+", form="gs://bucket/path/*", repeatable=True,
    example="gs://my-bucket/obs/*", in_file=False,
)
MAX_STALENESS_MINUTES = Flag(
    "max_staleness_minutes", Kind.INTEGER, "How old the object table's listing may be: 0, or 30 to 10080.",
    Group.SQL, default=0, minimum=0, maximum=10_080, example="240", in_file=False,
)
METADATA_CACHE_MODE = Flag(
    "metadata_cache_mode", Kind.TEXT, "Who lists the bucket anew, if the listing may be old; MANUAL: each run.",
    Group.SQL, default="AUTOMATIC", choices=("AUTOMATIC", "MANUAL"), example="MANUAL", in_file=False,
)
ROWS_PER_JOB = Flag(
    "rows_per_job", Kind.INTEGER, "Images per job at most; a job ends after six hours.",
    Group.SQL, default=40_000, minimum=1, maximum=1_440_000, example="200000", in_file=False,
)
MAX_PASSES = Flag(
    "max_passes", Kind.INTEGER, "Passes at most over what may be asked again.",
    Group.SQL, default=20, minimum=1, maximum=1_000, example="5", in_file=False,
)
PASS_PAUSE_S = Flag(
    "pass_pause_s", Kind.NUMBER, "Seconds before the next pass; doubled while passes gain nothing.",
    Group.SQL, default=10.0, minimum=0, maximum=3_600, example="60", in_file=False,
)
DRY_RUN = Flag(
    "dry_run", Kind.BOOLEAN, "Show every statement, do nothing.", Group.SQL, default=False, example="true",
    in_file=False,
)

#: Why that lane does not run on Dataflow.
NO_DATAFLOW: Final = (
    "BigQuery does all the work, and Dataflow would only wait for it; run imagebeam embed --lane=sql without a "
    "--runner, on any small machine"
)

#: Those that are for ``--lane=sql`` only.
EMBED_SQL: Final[tuple[Flag, ...]] = (
    CONNECTION, CREATE_CONNECTION, ENDPOINT, OBJECT_URIS, MAX_STALENESS_MINUTES, METADATA_CACHE_MODE, ROWS_PER_JOB,
    MAX_PASSES, PASS_PAUSE_S, DRY_RUN,
)
# fmt: on

_BATCH: Final = (BATCH_LINES, BATCH_FALLBACK)
#: Those that are for ``--lane=batch`` only. What ``imagebeam.yaml`` says of jobs is said of classify's.
EMBED_BATCH: Final[tuple[Flag, ...]] = tuple(
    next((own for own in _BATCH if own.name == flag.name), dataclasses.replace(flag, in_file=False))
    for flag in BATCH_ONLY
)

_OWN: Final = (
    MODEL,
    DIMENSION,
    UNIT,
    CROP,
    PADDING,
    MAX_SIDE,
    VECTOR_INDEX,
    LANE,
    TRANSPORT,
    MAX_RPM,
    *EMBED_BATCH,
    *EMBED_SQL,
)
_NAMES: Final = {"task", "max_images", *(flag.name for flag in _OWN)}

#: Flags of ``imagebeam embed``: its own, and those of classify that are left.
EMBED: Final[tuple[Flag, ...]] = (*_OWN, *(flag for flag in CLASSIFY if flag.name not in _NAMES))

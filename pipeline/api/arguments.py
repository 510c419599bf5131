"""Types of the keyword arguments of the Python functions.

Generated from the declarations of the flags: ``python -m imagebeam.pipeline.api.signatures --write``. Do not edit.
"""

import datetime
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypedDict

from imagebeam.pipeline.api.beam_arguments import BeamArguments


class RunArguments(BeamArguments, total=False):
    """Arguments of both ``classify`` and ``embed``."""

    source: str | None
    """BigQuery table or view of the observations."""
    query: str | None
    """Read the result of this GoogleSQL query instead of a table."""
    query_file: str | Path | None
    """Read --query from this file."""
    profile: Literal["auto", "legacy", "cropped", "full_frame", "pano", "custom"] | None
    """Layout of the source. auto detects it from the columns. One of auto, legacy, cropped, full_frame, pano, custom.
    Default: auto."""
    columns: str | Mapping[str, str] | None
    """Map columns of imagebeam to paths in the source, for --profile=custom."""
    keep_columns: str | Sequence[str] | None
    """Copy these source columns into the column extra of the results. Prompts can use them."""
    reprocess: str | Sequence[str] | None
    """Process these units too, in addition to new units and retries: outdated (answered by an older version), failed,
    or failed:REASON."""
    limit: int | None
    """Process at most N units (a deterministic subset)."""
    sample_percent: float | Decimal | None
    """Process only this percentage of the units (a deterministic subset)."""
    asset_types: str | Sequence[str] | None
    """Process only assets of these types."""
    bbox: str | Sequence[float] | None
    """Process only units inside this box: west, south, east, north in degrees."""
    near: str | Sequence[float] | None
    """Process only units inside this circle: latitude, longitude, radius in meters."""
    polygon_file: str | Path | None
    """Process only units inside the areas of this GeoJSON file."""
    captured_from: str | datetime.date | None
    """Process only images captured at or after this time. A date means midnight UTC."""
    captured_until: str | datetime.date | None
    """Process only images captured before this time. A date means midnight UTC."""
    where: str | None
    """Process only rows that match this GoogleSQL condition on the source columns."""
    project: str | None
    """Google Cloud project to use and bill. Default: $GOOGLE_CLOUD_PROJECT."""
    results: str | None
    """BigQuery dataset of the results. Created if it does not exist."""
    work_dir: str | Path | None
    """Directory for the files of runs. Dataflow and batch jobs need gs://bucket/path. Default: .imagebeam."""
    results_location: str | None
    """BigQuery location for creating the results dataset. Default: the source's."""
    location: str | None
    """Vertex AI location of the model. Default: global."""
    in_flight: int | None
    """Limit concurrent calls per worker process. Default: 256."""
    max_tpm: int | None
    """Limit tokens per minute (prompts and answers), over all workers. Default: the rate that the service grants."""
    max_cost_usd: float | Decimal | None
    """Stop (exit code 4) before calls cost more than this at list price."""
    max_calls: int | None
    """Stop (exit code 4) after N calls. Calls rejected for quota (429) do not count."""
    unit_deadline_s: float | Decimal | None
    """Retry one unit for at most this long. Time spent waiting for quota does not count. Default: 600."""
    call_timeout_s: float | Decimal | None
    """Cancel a call after this long. Default: 120."""
    maximum_bytes_billed: int | None
    """Fail if the source query reads more bytes than this."""
    max_failure_percent: float | Decimal | None
    """Stop (exit code 5) if more than this percentage of at least 200 processed units failed. Default: 20."""
    batch_source: Literal["gcs", "bigquery"] | None
    """Where jobs read requests: files in the work directory, or BigQuery tables. Default: gcs."""
    batch_destination: Literal["gcs", "bigquery"] | None
    """Where jobs write answers: files in the work directory, or BigQuery tables. Default: gcs."""
    batch_dataset: str | None
    """Dataset for the tables of batch_source and batch_destination, in the region of the model. For sources in a
    multi-region such as US. Default: the results dataset."""
    batch_output_table: str | None
    """Name of the table of answers with --batch_destination=bigquery. It does not expire. Further jobs add their
    number to it. Default: a name per job, whose table expires after 30 days."""
    batch_check_types: Literal["sample", "all"] | None
    """Compare the type in the names of images with their first bytes: of some images per type, or of all, with one
    read from Cloud Storage each, about $0.40 per million images. Default: sample."""
    display_name: str | None
    """Start of the display names of the jobs; run, round and number follow. Default: imagebeam."""
    batch_bytes: int | None
    """Limit the size of one input file. Default: 984000000."""
    batch_rounds: int | None
    """Submit units without an answer again, in at most N rounds of jobs in total. Default: 3."""
    batch_deadline_s: float | Decimal | None
    """Cancel jobs after this long and process the remaining units in the lane of --batch_fallback."""
    batch_grace_s: float | Decimal | None
    """After an interrupted creation, wait this long for the job to appear before creating it again. Default: 600."""
    batch_poll_s: float | Decimal | None
    """Poll the state of the jobs at this interval. Default: 30."""
    no_wait: bool | None
    """Return when the jobs are created. Finish the run with imagebeam batch collect."""
    config: str | Path | None
    """Read flags from this file. Flags on the command line override it. Default: imagebeam.yaml."""
    json: bool | None
    """Print the result as JSON on standard output."""
    runner: Literal["FnApiRunner", "DataflowRunner", "PortableRunner"] | None
    """Beam runner. FnApiRunner runs on this machine. One of FnApiRunner, DataflowRunner, PortableRunner. Default:
    FnApiRunner."""
    direct_num_workers: int | None
    """Worker processes of FnApiRunner. One saturates the usual quota. Default: 1."""
    unit_batch_size: int | None
    """Pack N units into one Beam element. Default: 200."""
    run_id: str | None
    """Unique name of the run. Default: the time and a random suffix."""
    models_file: str | Path | None
    """Add the models and prices of this file to the shipped ones, and override them."""
    yes: bool | None
    """Start even if the estimated cost is above $20 and there is no --max_cost_usd."""
    quiet: bool | None
    """Print only the result, no progress."""
    log_level: Literal["debug", "info", "warning", "error"] | None
    """Log messages of this level and above. debug also prints tracebacks. Default: warning."""


class ClassifyArguments(RunArguments, total=False):
    """Arguments of ``classify``."""

    task: str | Path | None
    """Name of a shipped task or of one in tasks/, or a YAML file. See imagebeam tasks list."""
    prompt: str | None
    """Send this prompt about every image, instead of a task file. --task is the name under which answers are
    recorded."""
    schema: str | Path | None
    """JSON or YAML file with the schema of the answers to --prompt. Without it, answers are text."""
    model: str | None
    """Use this model instead of the task's. A different model makes a different task version."""
    unit: Literal["observation", "asset"] | None
    """Make one call per observation, or per asset with its images. Default: the task's."""
    max_images: int | None
    """Send at most N images of an asset. Default: the task's."""
    lane: Literal["online", "flex", "batch"] | None
    """online: one call per unit. flex: half the price, slower. batch: half the price, batch jobs that take hours.
    Default: online."""
    price_as: str | None
    """Use the prices of this model for estimates and caps. For tuned models, and others that the models file does not
    have."""
    transport: Literal["auto", "uri", "inline"] | None
    """Send the image's URI, or its bytes (inline). auto tests one image, and sends bytes if the service cannot read
    it by URI. Default: auto."""
    max_rpm: int | None
    """Limit calls per minute, over all workers. Default: the rate that the service grants."""
    batch_lines: int | None
    """Put at most N units into one job. Few large jobs are faster than many small ones. Default: 200000."""
    batch_fallback: Literal["flex", "online"] | None
    """Lane of the units that remain after --batch_deadline_s. Default: flex."""


class EmbedArguments(RunArguments, total=False):
    """Arguments of ``embed``."""

    model: Literal["gemini-embedding-2", "multimodalembedding@001"] | None
    """Embedding model. Vectors of different models cannot be compared. One of gemini-embedding-2,
    multimodalembedding@001. Default: gemini-embedding-2."""
    unit: Literal["observation"] | None
    """Each vector is for one observation; its row has the asset_id. Default: observation."""
    lane: Literal["online", "batch", "sql"] | None
    """online: one call per image. batch: half the price, batch jobs that take hours; gemini-embedding-2 only. sql:
    BigQuery calls the model. Default: online."""
    transport: Literal["auto", "uri", "inline"] | None
    """Send the image's URI, or its bytes (inline). auto tests one image by URI with a paid call; with --max_calls or
    --max_cost_usd it sends bytes. Default: auto."""
    max_rpm: int | None
    """Limit calls per minute, over all workers. Default: the rate that the service grants; for
    multimodalembedding@001 its published quota, 600, or 120 in Europe."""
    batch_lines: int | None
    """Put at most N images into one job. Collecting a job needs local disk space for two copies of its answers, 3 GB
    each for 50,000 vectors of 3,072 dimensions. Default: 50000."""
    batch_fallback: Literal["online"] | None
    """Lane of the units that remain after --batch_deadline_s. Default: online."""
    connection: str | None
    """BigQuery connection whose service account calls the model and reads the images: LOCATION.NAME,
    projects/PROJECT/locations/LOCATION/connections/NAME, or DEFAULT. Default: DEFAULT."""
    create_connection: bool | None
    """Create the connection if it does not exist, and print the IAM grants it needs."""
    endpoint: str | None
    """Vertex AI endpoint of the remote model: a model name or URL. Default: --model."""
    remote_model: str | None
    """Call this remote model instead of creating one. Its connection takes the place of --connection."""
    object_table: str | None
    """Read images through this object table instead of creating one."""
    object_uris: str | Sequence[str] | None
    """Create an object table over these URI prefixes, and read images through it instead of directly."""
    max_staleness_minutes: int | None
    """Maximum age of the object table's metadata: 0, or 30 to 10080."""
    metadata_cache_mode: Literal["AUTOMATIC", "MANUAL"] | None
    """How BigQuery refreshes the object table's metadata cache. MANUAL refreshes it in every run. Default:
    AUTOMATIC."""
    rows_per_job: int | None
    """Embed at most N images per job. BigQuery ends a job after six hours. Default: 40000."""
    max_passes: int | None
    """Retry failed images in at most N passes. Default: 20."""
    pass_pause_s: float | Decimal | None
    """Wait this long before the next pass; doubled after each pass that embeds nothing. Default: 10."""
    dry_run: bool | None
    """Print the SQL statements instead of running them."""
    dimension: int | None
    """Length of the vectors: 1 to 3072 for gemini-embedding-2; 128, 256, 512 or 1408 for multimodalembedding@001.
    Default: the longest."""
    crop: Literal["none", "bbox"] | None
    """bbox: embed only the bounding box of the object. Sends bytes instead of URIs. Default: none."""
    padding: float | Decimal | None
    """Margin around the box, as a fraction of its longer side."""
    max_side: int | None
    """Downscale images to at most N pixels per side before sending. Sends bytes instead of URIs."""
    vector_index: bool | None
    """Create a vector index on the table after the run, if it has none."""


class PlanArguments(ClassifyArguments, total=False):
    """Arguments of ``plan``."""

    probe: int | None
    """Process N units now and estimate from their actual usage. These calls are paid; their answers are kept.
    Default: 0, no paid call."""
    sample_images: int | None
    """Read the first bytes of the images of N units, to find missing, invalid and mislabeled ones. Costs one Cloud
    Storage read each; 0 for none. Default: 500."""


class PlanEmbedArguments(EmbedArguments, total=False):
    """Arguments of ``plan("embed")``."""

    probe: int | None
    """Process N units now and estimate from their actual usage. These calls are paid; their answers are kept.
    Default: 0, no paid call."""
    sample_images: int | None
    """Read the first bytes of the images of N units, to find missing, invalid and mislabeled ones. Costs one Cloud
    Storage read each; 0 for none. Default: 500."""


class SearchArguments(TypedDict, total=False):
    """Arguments of ``search``."""

    text: str | None
    """Find images that show what this text describes."""
    image: str | Path | None
    """Find images that look like this local picture."""
    like: str | None
    """Find images that look like the image of this unit."""
    where: str | None
    """Search only rows that match this GoogleSQL condition on the columns of the embeddings table."""
    top_k: int | None
    """Return the N nearest images. Default: 20."""
    model: str | None
    """Model of the embeddings. Needed only if there are several tables of embeddings."""
    dimension: int | None
    """Length of the embeddings. Needed only if there are several tables of embeddings."""
    location: str | None
    """Vertex AI location of the model that embeds the text or picture. Default: a location that has the model."""
    out_table: str | None
    """Save the result in this table, which can be the --source of imagebeam classify."""
    html: str | Path | None
    """Write a contact sheet of the result to this file."""
    thumbnails: bool | None
    """Include thumbnails in the contact sheet."""
    project: str | None
    """Google Cloud project to use and bill. Default: $GOOGLE_CLOUD_PROJECT."""
    results: str | None
    """BigQuery dataset with the embeddings."""
    force: bool | None
    """Overwrite existing output."""
    json: bool | None
    """Print the result as JSON on standard output."""
    config: str | Path | None
    """Read flags from this file. Flags on the command line override it. Default: imagebeam.yaml."""

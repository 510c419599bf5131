"""Settings of a run: model calls, limits, batch jobs, runner and output."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from imagebeam.pipeline.flags.inputs import DATASET
from imagebeam.pipeline.flags.model import Settings
from imagebeam.pipeline.flags.setting import Group, Setting
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.core.unit_batch import UNIT_BATCH_SIZE
from imagebeam.transforms.engine.settings import CALL_TIMEOUT_S, IN_FLIGHT, UNIT_DEADLINE_S
from imagebeam.transforms.gemini.batch_requests import DISPLAY_NAME, MAX_BYTES, MAX_LINES

Place = Literal["gcs", "bigquery"]


# fmt: off
class ModelSettings(Settings, group=Group.MODEL):
    """How the model is called."""

    location: Annotated[str, Setting(
        "Vertex AI location of the model.", metavar="LOCATION", pattern=r"global|[a-z]+(?:-[a-z]+[0-9]+)?",
        form="global, a region such as europe-west4, or a multi-region such as eu", example="europe-west4")] = "global"
    lane: Annotated[Lane, Setting(
        "online: one call per unit. flex: half the price, slower. batch: half the price, batch jobs that take hours.",
        choices=(Lane.ONLINE, Lane.FLEX, Lane.BATCH), example="flex")] = Lane.ONLINE
    price_as: Annotated[str | None, Setting(
        "Use the prices of this model for estimates and caps. For tuned models, and others that the models file does "
        "not have.",
        metavar="MODEL", example="gemini-2.5-flash")] = None
    transport: Annotated[Transport, Setting(
        "Send the image's URI, or its bytes (inline). auto tests one image, and sends bytes if the service cannot "
        "read it by URI.",
        example="inline")] = Transport.AUTO


class LimitSettings(Settings, group=Group.LIMITS):
    """Rates, caps and time limits."""

    in_flight: Annotated[int, Setting(
        "Limit concurrent calls per worker process.", minimum=1, maximum=4096, example="64")] = IN_FLIGHT
    max_rpm: Annotated[int | None, Setting(
        "Limit calls per minute, over all workers.", minimum=1, example="600",
        computed="the rate that the service grants")] = None
    max_tpm: Annotated[int | None, Setting(
        "Limit tokens per minute (prompts and answers), over all workers.",
        minimum=1, example="2000000", computed="the rate that the service grants")] = None
    max_cost_usd: Annotated[Decimal | None, Setting(
        "Stop (exit code 4) before calls cost more than this at list price.",
        minimum=0, above=True, example="25")] = None
    max_calls: Annotated[int | None, Setting(
        "Stop (exit code 4) after N calls. Calls rejected for quota (429) do not count.",
        minimum=1, example="10000")] = None
    unit_deadline_s: Annotated[float, Setting(
        "Retry one unit for at most this long. Time spent waiting for quota does not count.",
        minimum=1, maximum=86_400, example="300")] = UNIT_DEADLINE_S
    call_timeout_s: Annotated[float, Setting(
        "Cancel a call after this long.", minimum=1, maximum=3_600, example="60")] = CALL_TIMEOUT_S
    maximum_bytes_billed: Annotated[int | None, Setting(
        "Fail if the source query reads more bytes than this.",
        metavar="BYTES", minimum=1, example="100000000000")] = None
    max_failure_percent: Annotated[float, Setting(
        "Stop (exit code 5) if more than this percentage of at least 200 processed units failed.",
        minimum=0, maximum=100, example="5")] = 20.0


class BatchSettings(Settings, group=Group.BATCH):
    """Batch jobs."""

    batch_source: Annotated[Place, Setting(
        "Where jobs read requests: files in the work directory, or BigQuery tables.", example="bigquery")] = "gcs"
    batch_destination: Annotated[Place, Setting(
        "Where jobs write answers: files in the work directory, or BigQuery tables.", example="bigquery")] = "gcs"
    batch_dataset: Annotated[str | None, Setting(
        "Dataset for the tables of batch_source and batch_destination, in the region of the model. For sources in a "
        "multi-region such as US.",
        metavar="DATASET", pattern=DATASET, form="dataset or project.dataset", example="my_dataset_us_central1",
        computed="the results dataset")] = None
    batch_output_table: Annotated[str | None, Setting(
        "Name of the table of answers with --batch_destination=bigquery. It does not expire. Further jobs add their "
        "number to it.",
        metavar="NAME", pattern=r"\w{1,1000}", form="letters, digits and _", example="answers_of_may",
        computed="a name per job, whose table expires after 30 days")] = None
    batch_check_types: Annotated[Literal["sample", "all"], Setting(
        "Compare the type in the names of images with their first bytes: of some images per type, or of all, with one "
        "read from Cloud Storage each, about $0.40 per million images.", example="all")] = "sample"
    display_name: Annotated[str, Setting(
        "Start of the display names of the jobs; run, round and number follow.",
        metavar="NAME", pattern=r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}", form="1 to 40 letters, digits, spaces, . _ and -",
        example="monday-poles")] = DISPLAY_NAME
    batch_lines: Annotated[int, Setting(
        "Put at most N units into one job. Few large jobs are faster than many small ones.",
        minimum=1, maximum=MAX_LINES, example="50000")] = MAX_LINES
    batch_bytes: Annotated[int, Setting(
        "Limit the size of one input file.", minimum=1, maximum=MAX_BYTES, example="100000000")] = MAX_BYTES
    batch_rounds: Annotated[int, Setting(
        "Submit units without an answer again, in at most N rounds of jobs in total.",
        minimum=1, maximum=10, example="1")] = 3
    batch_deadline_s: Annotated[float | None, Setting(
        "Cancel jobs after this long and process the remaining units in the lane of --batch_fallback.",
        minimum=0, example="86400")] = None
    batch_fallback: Annotated[Lane, Setting(
        "Lane of the units that remain after --batch_deadline_s.",
        choices=(Lane.FLEX, Lane.ONLINE), example="online")] = Lane.FLEX
    batch_grace_s: Annotated[float, Setting(
        "After an interrupted creation, wait this long for the job to appear before creating it again.",
        minimum=0, maximum=86_400, example="600")] = 600.0
    batch_poll_s: Annotated[float, Setting(
        "Poll the state of the jobs at this interval.", minimum=0, above=True, maximum=3_600, example="60")] = 30.0
    no_wait: Annotated[bool, Setting(
        "Return when the jobs are created. Finish the run with imagebeam batch collect.",
        example="true", in_file=False)] = False


class ConfigSettings(Settings, group=Group.RUN):
    """The configuration file."""

    config: Annotated[str, Setting(
        "Read flags from this file. Flags on the command line override it.",
        metavar="FILE", example="imagebeam.yaml", in_file=False)] = "imagebeam.yaml"


class JsonSettings(Settings, group=Group.RUN):
    """JSON output."""

    as_json: Annotated[bool, pydantic.Field(alias="json"), Setting(
        "Print the result as JSON on standard output.", example="true", in_file=False)] = False


class ForceSettings(Settings, group=Group.RUN):
    """Whether files are overwritten."""

    force: Annotated[bool, Setting("Overwrite existing output.", example="true", in_file=False)] = False


class RunnerSettings(JsonSettings, ConfigSettings, group=Group.RUN):
    """How the run is executed."""

    runner: Annotated[Literal["FnApiRunner", "DataflowRunner", "PortableRunner"], Setting(
        "Beam runner. FnApiRunner runs on this machine.", metavar="RUNNER", example="DataflowRunner",
        to_beam=True)] = "FnApiRunner"
    direct_num_workers: Annotated[int, Setting(
        "Worker processes of FnApiRunner. One saturates the usual quota.",
        minimum=1, maximum=256, example="2", to_beam=True)] = 1
    unit_batch_size: Annotated[int, Setting(
        "Pack N units into one Beam element.",
        minimum=1, maximum=10_000, example="100", aliases=("group_size",))] = UNIT_BATCH_SIZE
    run_id: Annotated[str, Setting(
        "Unique name of the run.", metavar="NAME", pattern=r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
        form="lowercase letters, digits and -", example="poles-2026-11-21", in_file=False,
        computed="the time and a random suffix")]
    models_file: Annotated[Path | None, Setting(
        "Add the models and prices of this file to the shipped ones, and override them.",
        metavar="FILE", example="models.yaml")] = None
    yes: Annotated[bool, Setting(
        "Start even if the estimated cost is above $20 and there is no --max_cost_usd.",
        example="true", in_file=False)] = False
    quiet: Annotated[bool, Setting("Print only the result, no progress.", example="true")] = False
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Setting(
        "Log messages of this level and above. debug also prints tracebacks.", example="info")] = "warning"
# fmt: on

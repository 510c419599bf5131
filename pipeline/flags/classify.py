"""Every flag of imagebeam, once: command line, ``imagebeam.yaml``, ``--help`` and templates read this table.

A flag's name is the same everywhere. This module is plain data; :mod:`imagebeam.pipeline.flags.values` reads
values, :mod:`imagebeam.pipeline.flags.parser` reads a command line, :mod:`imagebeam.pipeline.run.settings` reads the
file and puts both together.
"""

import dataclasses
import enum
from typing import Final


class Kind(enum.Enum):
    """What the value of a flag is, as a person writes it."""

    TEXT = "text"
    INTEGER = "a whole number"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    NAMES = "names, separated by commas"
    PAIRS = "name=value pairs, separated by commas"
    BOX = "west,south,east,north in degrees"
    CIRCLE = "latitude,longitude,radius in metres"
    TIME = "a date or an RFC 3339 time"


class Group(enum.StrEnum):
    """Headings of ``--help``, in this order."""

    ASK = "What to ask"
    FIND = "What to find"
    SOURCE = "Which table"
    UNITS = "Which images of it"
    RESULTS = "Where results go"
    MODEL = "How the model is called"
    LIMITS = "Limits"
    BATCH = "Batch jobs, with --lane=batch"
    SQL = "Embeddings in BigQuery, with --lane=sql"
    RUN = "How it runs"


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """One flag.

    Attributes:
        name: snake_case; ``-`` is accepted for ``_`` on the command line.
        kind: What its value is.
        help: One or two short sentences: meaning, unit, effect. The default is added by ``--help``.
        group: Heading it stands under.
        default: Value when nobody gives one; None when there is none.
        choices: The only values, if there are only some.
        repeatable: Giving it again adds to it instead of replacing it.
        minimum: Smallest number, included unless ``above`` says otherwise.
        maximum: Largest number, included.
        above: ``minimum`` itself is too small.
        pattern: Regular expression that the whole text fits.
        form: What such a text looks like, for the message when it does not fit ``pattern``.
        example: A good value, for messages, ``imagebeam.yaml`` and documents.
        in_file: It may stand in ``imagebeam.yaml``.
        to_beam: Beam has an option of the same name, which gets the value too.
    """

    name: str
    kind: Kind
    help: str
    group: Group
    default: object = None
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    above: bool = False
    pattern: str | None = None
    form: str = ""
    example: str = ""
    in_file: bool = True
    to_beam: bool = False


_PROJECT = r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
_DATASET = rf"(?:(?P<project>{_PROJECT})[.:])?(?P<dataset>\w{{1,1024}})"
_TABLE = rf"{_DATASET}\.(?P<table>[\w-]{{1,1024}})"

# One flag is three or four lines: a table, not a page of arguments.
# fmt: off
TASK = Flag(
    "task", Kind.TEXT, "A shipped task, one in tasks/, or a YAML file. See imagebeam tasks list.",
    Group.ASK, example="utility_pole",
)
MODEL = Flag(
    "model", Kind.TEXT, "Ask this model instead of the task's. Another model is another version.",
    Group.ASK, example="gemini-3.5-flash-lite",
)
UNIT = Flag(
    "unit", Kind.TEXT, "One call per observation, or per asset with its images. The task says which.",
    Group.ASK, choices=("observation", "asset"), example="asset",
)
MAX_IMAGES = Flag(
    "max_images", Kind.INTEGER, "Images of an asset that are sent at most. The task says how many.",
    Group.ASK, minimum=1, maximum=10, example="4",
)

SOURCE = Flag(
    "source", Kind.TEXT, "BigQuery table or view of the observations.",
    Group.SOURCE, pattern=f"`?{_TABLE}`?", form="project.dataset.table or dataset.table",
    example="my-project.imagery_insights___us.cropped_observations_latest",
)
QUERY = Flag(
    "query", Kind.TEXT, "A GoogleSQL query to read instead of a table.",
    Group.SOURCE, example="SELECT * FROM my_dataset.my_images WHERE city = 'Bern'",
)
QUERY_FILE = Flag(
    "query_file", Kind.TEXT, "A file with that query.", Group.SOURCE, example="poles.sql",
)
PROFILE = Flag(
    "profile", Kind.TEXT, "Shape of the source; auto looks at its columns and says what it found.",
    Group.SOURCE, default="auto", choices=("auto", "legacy", "cropped", "full_frame", "pano", "custom"),
    example="cropped",
)
COLUMNS = Flag(
    "columns", Kind.PAIRS, "Where profile custom finds things, as ours=path in your table.",
    Group.SOURCE, repeatable=True, example="observation_id=photo_id,gcs_uri=file.uri",
)
KEEP_COLUMNS = Flag(
    "keep_columns", Kind.NAMES, "Columns of the source to copy into the results (extra), for prompts too.",
    Group.SOURCE, default=(), repeatable=True, example="road_name,surveyor",
)

DUE = Flag(
    "due", Kind.NAMES, "What to ask about: new, retry, outdated (answered by an older version), failed, or "
    "failed:REASON.",
    Group.UNITS, default=("new", "retry"), pattern=r"new|retry|outdated|failed(?::[A-Za-z][A-Za-z0-9_]*)?",
    form="new, retry, outdated, failed or failed:REASON", example="new,retry,outdated",
)
ASSET_TYPES = Flag(
    "asset_types", Kind.NAMES, "Only assets of these types.",
    Group.UNITS, default=(), repeatable=True, example="ASSET_CLASS_UTILITY_POLE",
)
BBOX = Flag(
    "bbox", Kind.BOX, "Only inside this box: west,south,east,north in degrees.",
    Group.UNITS, example="7.40,46.93,7.48,46.97",
)
NEAR = Flag(
    "near", Kind.CIRCLE, "Only inside this circle: latitude,longitude,radius in metres.",
    Group.UNITS, example="46.948,7.447,500",
)
POLYGON_FILE = Flag(
    "polygon_file", Kind.TEXT, "Only inside the areas in this GeoJSON file.",
    Group.UNITS, example="district.geojson",
)
CAPTURED_FROM = Flag(
    "captured_from", Kind.TIME, "Only captured at or after this time; a bare date is its start in UTC.",
    Group.UNITS, example="2025-01-01",
)
CAPTURED_UNTIL = Flag(
    "captured_until", Kind.TIME, "Only captured before this time; a bare date is its start in UTC.",
    Group.UNITS, example="2026-01-01",
)
WHERE = Flag(
    "where", Kind.TEXT, "Another condition on the columns of the source, in GoogleSQL.",
    Group.UNITS, example="camera_pose.altitude > 400",
)
LIMIT = Flag(
    "limit", Kind.INTEGER, "Only so many units, the same ones each time; of them, those that are due.",
    Group.UNITS, minimum=1, example="100",
)
SAMPLE_PERCENT = Flag(
    "sample_percent", Kind.NUMBER, "Only this share of the units, the same ones each time.",
    Group.UNITS, minimum=0, above=True, maximum=100, example="5",
)

PROJECT = Flag(
    "project", Kind.TEXT, "Google Cloud project that runs and pays. Else the variable GOOGLE_CLOUD_PROJECT.",
    Group.RESULTS, pattern=_PROJECT, form="a project id such as my-project-123", example="my-project",
    to_beam=True,
)
RESULTS = Flag(
    "results", Kind.TEXT, "Dataset of the results; made if it is missing.",
    Group.RESULTS, pattern=_DATASET, form="dataset or project.dataset",
    example="image_answers",
)
RESULTS_LOCATION = Flag(
    "results_location", Kind.TEXT, "BigQuery location of a dataset that is made. Else the source's.",
    Group.RESULTS, pattern=r"[A-Za-z][A-Za-z0-9-]+", form="a location such as US, EU or europe-west6",
    example="US",
)
WORK_DIR = Flag(
    "work_dir", Kind.TEXT, "Directory for what runs leave behind; gs://bucket/path for workers elsewhere.",
    Group.RESULTS, default=".imagebeam", example="gs://my-bucket/imagebeam",
)

LOCATION = Flag(
    "location", Kind.TEXT, "Vertex AI location of the model.",
    Group.MODEL, default="global", pattern=r"global|[a-z]+(?:-[a-z]+[0-9]+)?",
    form="global, a region such as europe-west4, or a multi-region such as eu", example="europe-west4",
)
LANE = Flag(
    "lane", Kind.TEXT, "online; flex: half the price, slower, may be refused; batch: half the price, jobs, hours.",
    Group.MODEL, default="online", choices=("online", "flex", "batch"), example="flex",
)
TRANSPORT = Flag(
    "transport", Kind.TEXT, "Send the image's URI or its bytes; auto tries one image by URI first.",
    Group.MODEL, default="auto", choices=("auto", "uri", "inline"), example="inline",
)

IN_FLIGHT = Flag(
    "in_flight", Kind.INTEGER, "Calls in flight at most, per worker process.",
    Group.LIMITS, default=256, minimum=1, maximum=4096, example="64",
)
MAX_RPM = Flag(
    "max_rpm", Kind.INTEGER, "Calls per minute at most. Without it the pace is what the service grants.",
    Group.LIMITS, minimum=1, example="600",
)
MAX_TPM = Flag(
    "max_tpm", Kind.INTEGER, "Tokens per minute at most, prompts and answers. Without it, what the service grants.",
    Group.LIMITS, minimum=1, example="2000000",
)
MAX_COST_USD = Flag(
    "max_cost_usd", Kind.NUMBER, "End the run (exit code 4) before its calls cost more USD at list price.",
    Group.LIMITS, minimum=0, above=True, example="25",
)
MAX_CALLS = Flag(
    "max_calls", Kind.INTEGER, "End the run (exit code 4) after so many calls; refused for quota (429) is not one.",
    Group.LIMITS, minimum=1, example="10000",
)
UNIT_DEADLINE_S = Flag(
    "unit_deadline_s", Kind.NUMBER, "Seconds to keep trying one unit; waiting for quota does not count.",
    Group.LIMITS, default=600.0, minimum=1, maximum=86_400, example="300",
)
CALL_TIMEOUT_S = Flag(
    "call_timeout_s", Kind.NUMBER, "Seconds until a call is given up.",
    Group.LIMITS, default=120.0, minimum=1, maximum=3_600, example="60",
)
MAXIMUM_BYTES_BILLED = Flag(
    "maximum_bytes_billed", Kind.INTEGER, "Refuse a source query that reads more bytes than this.",
    Group.LIMITS, minimum=1, example="100000000000",
)
MAX_FAILURE_PERCENT = Flag(
    "max_failure_percent", Kind.NUMBER, "Exit code 5 when more of the units asked about fail, if they are 200 or more.",
    Group.LIMITS, default=20.0, minimum=0, maximum=100, example="5",
)

BATCH_SOURCE = Flag(
    "batch_source", Kind.TEXT, "Where jobs read requests: files in the work directory, or BigQuery tables.",
    Group.BATCH, default="gcs", choices=("gcs", "bigquery"), example="bigquery",
)
BATCH_DESTINATION = Flag(
    "batch_destination", Kind.TEXT, "Where jobs write answers: files in the work directory, or BigQuery tables.",
    Group.BATCH, default="gcs", choices=("gcs", "bigquery"), example="bigquery",
)
BATCH_LINES = Flag(
    "batch_lines", Kind.INTEGER, "Units per job at most. Few large jobs are faster than many small ones.",
    Group.BATCH, default=200_000, minimum=1, maximum=200_000, example="50000",
)
BATCH_BYTES = Flag(
    "batch_bytes", Kind.INTEGER, "Bytes per input file at most.",
    Group.BATCH, default=984_000_000, minimum=1, maximum=984_000_000, example="100000000",
)
BATCH_ROUNDS = Flag(
    "batch_rounds", Kind.INTEGER, "Rounds of jobs at most: units without an answer go into the next one.",
    Group.BATCH, default=3, minimum=1, maximum=10, example="1",
)
BATCH_DEADLINE_S = Flag(
    "batch_deadline_s", Kind.NUMBER, "Seconds after which jobs are cancelled and the rest goes through another lane.",
    Group.BATCH, minimum=0, example="86400",
)
BATCH_FALLBACK = Flag(
    "batch_fallback", Kind.TEXT, "That lane.",
    Group.BATCH, default="flex", choices=("flex", "online"), example="online",
)
BATCH_POLL_S = Flag(
    "batch_poll_s", Kind.NUMBER, "Seconds between looks at the jobs.",
    Group.BATCH, default=30.0, minimum=0, above=True, maximum=3_600, example="60",
)
BATCH_GRACE_S = Flag(
    "batch_grace_s", Kind.NUMBER, "Seconds to wait for a job to show in the list before it is created again.",
    Group.BATCH, default=600.0, minimum=0, maximum=86_400, example="600",
)
NO_WAIT = Flag(
    "no_wait", Kind.BOOLEAN, "Return when the jobs are created; imagebeam batch collect does the rest.",
    Group.BATCH, default=False, example="true", in_file=False,
)

RUNNER = Flag(
    "runner", Kind.TEXT, "Beam runner: FnApiRunner is this machine.",
    Group.RUN, default="FnApiRunner",
    choices=("FnApiRunner", "DataflowRunner", "PortableRunner"),
    example="DataflowRunner", to_beam=True,
)
DIRECT_NUM_WORKERS = Flag(
    "direct_num_workers", Kind.INTEGER, "Workers of FnApiRunner. One saturates the usual quota.",
    Group.RUN, default=1, minimum=1, maximum=256, example="2", to_beam=True,
)
GROUP_SIZE = Flag(
    "unit_batch_size", Kind.INTEGER, "Units that travel through the pipeline together.",
    Group.RUN, default=200, minimum=1, maximum=10_000, example="100",
)
RUN_ID = Flag(
    "run_id", Kind.TEXT, "Name of the run. Made from the time when it is not given; never use one twice.",
    Group.RUN, pattern=r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", form="lower-case letters, digits and -",
    example="poles-2026-11-21", in_file=False,
)
MODELS_FILE = Flag(
    "models_file", Kind.TEXT, "Your own models and prices instead of the shipped ones.",
    Group.RUN, example="models.yaml",
)
YES = Flag(
    "yes", Kind.BOOLEAN, "Do not ask before spending.", Group.RUN, default=False, example="true",
    in_file=False,
)
JSON = Flag(
    "json", Kind.BOOLEAN, "The result as JSON on standard output.", Group.RUN, default=False, example="true",
    in_file=False,
)
QUIET = Flag(
    "quiet", Kind.BOOLEAN, "No progress, only the result.", Group.RUN, default=False, example="true",
)
LOG_LEVEL = Flag(
    "log_level", Kind.TEXT, "How much to say; debug also shows tracebacks.",
    Group.RUN, default="warning", choices=("debug", "info", "warning", "error"), example="info",
)
CONFIG = Flag(
    "config", Kind.TEXT, "File with the flags that repeat; flags override it.",
    Group.RUN, default="imagebeam.yaml", example="imagebeam.yaml", in_file=False,
)
NO_PROBE = Flag(
    "no_probe", Kind.BOOLEAN, "Make no paid call, not even the two that decide how images travel.",
    Group.RUN, default=False, example="true", in_file=False,
)
FORCE = Flag(
    "force", Kind.BOOLEAN, "Overwrite the file.", Group.RUN, default=False, example="true", in_file=False,
)

#: Flags of ``imagebeam classify``, in the order of ``--help``.
CLASSIFY: Final[tuple[Flag, ...]] = (
    TASK, MODEL, UNIT, MAX_IMAGES,
    SOURCE, QUERY, QUERY_FILE, PROFILE, COLUMNS, KEEP_COLUMNS,
    DUE, LIMIT, SAMPLE_PERCENT, ASSET_TYPES, BBOX, NEAR, POLYGON_FILE, CAPTURED_FROM, CAPTURED_UNTIL, WHERE,
    PROJECT, RESULTS, RESULTS_LOCATION, WORK_DIR,
    LOCATION, LANE, TRANSPORT,
    IN_FLIGHT, MAX_RPM, MAX_TPM, MAX_COST_USD, MAX_CALLS, UNIT_DEADLINE_S, CALL_TIMEOUT_S,
    MAXIMUM_BYTES_BILLED, MAX_FAILURE_PERCENT,
    BATCH_SOURCE, BATCH_DESTINATION, BATCH_LINES, BATCH_BYTES, BATCH_ROUNDS, BATCH_DEADLINE_S, BATCH_FALLBACK,
    BATCH_POLL_S, BATCH_GRACE_S, NO_WAIT,
    RUNNER, DIRECT_NUM_WORKERS, GROUP_SIZE, RUN_ID, MODELS_FILE, YES, JSON, QUIET, LOG_LEVEL, CONFIG,
)
# fmt: on

#: Flags of ``--lane=batch`` alone.
BATCH_ONLY: Final[tuple[Flag, ...]] = tuple(flag for flag in CLASSIFY if flag.group is Group.BATCH)

#: Flags of ``imagebeam batch``.
BATCH: Final[tuple[Flag, ...]] = (WORK_DIR, RUN_ID, BATCH_POLL_S, NO_WAIT, JSON, CONFIG)

#: Flags that may stand in ``imagebeam.yaml``, of all commands.
IN_FILE: Final[tuple[Flag, ...]] = tuple(flag for flag in CLASSIFY if flag.in_file)


def by_name(flags: tuple[Flag, ...]) -> dict[str, Flag]:
    """The flags, by name."""
    return {flag.name: flag for flag in flags}

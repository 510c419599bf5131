"""The settings of a run, typed and checked: flags over ``imagebeam.yaml`` over defaults.

Nothing here imports Beam or a client, calls anything or writes anything.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import BATCH_ONLY, CLASSIFY, MAX_COST_USD, RESULTS, SOURCE, Flag, by_name
from imagebeam.pipeline.flags.layers import SOURCES, FlagValues, read_flags
from imagebeam.pipeline.run import dataflow_options
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.images import parse_gs_uri
from imagebeam.transforms.core.records import Lane, Transport, UnitKind
from imagebeam.transforms.core.text import quote
from imagebeam.transforms.sql import filters
from imagebeam.transforms.sql.selection import parse_due


@dataclasses.dataclass(frozen=True, slots=True)
class ClassifySettings:
    """What ``imagebeam classify`` was told. Every flag is documented in :mod:`imagebeam.pipeline.flags.classify`.

    Attributes:
        task: Name of a task, or the path of its file.
        model: Model instead of the task's.
        unit: ``observation`` or ``asset`` instead of the task's.
        max_images: Images per asset instead of the task's.
        source: ``project.dataset.table``; None when there is a query.
        query: GoogleSQL text, from ``--query`` or ``--query_file``; None when there is a source.
        profile: Shape of the source, or ``auto``.
        columns: Our name → path in the source, for profile ``custom``.
        keep_columns: Columns to copy.
        due: ``new``, ``retry``, ``outdated``, ``failed`` or ``failed:REASON``.
        limit: Units at most.
        sample_percent: Above 0, up to 100.
        asset_types: Empty for all.
        bbox: West, south, east, north in degrees.
        near: Latitude, longitude in degrees, radius in metres.
        polygon: GeoJSON text of ``--polygon_file``.
        captured_from: RFC 3339 in UTC, included.
        captured_until: RFC 3339 in UTC, not included.
        where: GoogleSQL condition.
        project: Project that runs and pays.
        results: ``project.dataset`` of the results.
        results_location: BigQuery location of a new results dataset; None for the source's.
        work_dir: Absolute local directory, or ``gs://bucket/path``.
        location: Vertex AI location of the model.
        lane: ``online``, ``flex`` or ``batch``.
        transport: ``auto``, ``uri`` or ``inline``.
        in_flight: Calls in flight at most, per process.
        max_rpm: Calls per minute at most; None for what the service grants.
        max_tpm: Tokens per minute at most; None for what the service grants.
        max_cost_usd: USD at list price that the run's calls cost at most; None for no cap.
        max_calls: Calls that are sent at most; None for no cap.
        unit_deadline_s: Seconds to keep trying one unit.
        call_timeout_s: Seconds until a call is given up.
        maximum_bytes_billed: Cap of the source query in bytes; None for none.
        max_failure_percent: 0 to 100; above it the exit code is 5.
        batch_source: ``gcs`` or ``bigquery``.
        batch_destination: ``gcs`` or ``bigquery``.
        batch_lines: Units per job at most.
        batch_bytes: Bytes per input file at most.
        batch_rounds: Rounds of jobs at most.
        batch_deadline_s: Seconds after which the rest goes through another lane; None for never.
        batch_fallback: That lane, ``flex`` or ``online``.
        batch_poll_s: Seconds between looks at the jobs.
        batch_grace_s: Seconds to wait for a job to show in the list.
        no_wait: Return when the jobs are created.
        runner: Beam runner.
        direct_num_workers: Workers of FnApiRunner.
        dataflow_workers: Workers of Dataflow, a fixed number; None for any other runner.
        unit_batch_size: Units that travel together.
        run_id: Lower-case letters, digits and dashes, at most 63.
        models_file: Models and prices instead of the shipped ones.
        yes: Do not ask.
        json: Print the result as JSON.
        quiet: No progress.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        given: Flags that a person gave, on the command line or in the file, as text: for the records.
    """

    task: str
    project: str
    results: str
    run_id: str
    work_dir: str
    model: str | None = None
    unit: UnitKind | None = None
    max_images: int | None = None
    source: str | None = None
    query: str | None = None
    profile: str = "auto"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keep_columns: tuple[str, ...] = ()
    due: tuple[str, ...] = ("new", "retry")
    limit: int | None = None
    sample_percent: float | None = None
    asset_types: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    near: tuple[float, float, float] | None = None
    polygon: str | None = None
    captured_from: str | None = None
    captured_until: str | None = None
    where: str | None = None
    results_location: str | None = None
    location: str = "global"
    lane: Lane = Lane.ONLINE
    transport: Transport = Transport.AUTO
    in_flight: int = 256
    max_rpm: int | None = None
    max_tpm: int | None = None
    max_cost_usd: Decimal | None = None
    max_calls: int | None = None
    unit_deadline_s: float = 600.0
    call_timeout_s: float = 120.0
    maximum_bytes_billed: int | None = None
    max_failure_percent: float = 20.0
    batch_source: str = "gcs"
    batch_destination: str = "gcs"
    batch_lines: int = 200_000
    batch_bytes: int = 984_000_000
    batch_rounds: int = 3
    batch_deadline_s: float | None = None
    batch_fallback: Lane = Lane.FLEX
    batch_poll_s: float = 30.0
    batch_grace_s: float = 600.0
    no_wait: bool = False
    runner: str = "FnApiRunner"
    direct_num_workers: int = 1
    dataflow_workers: int | None = None
    unit_batch_size: int = 200
    models_file: Path | None = None
    yes: bool = False
    json: bool = False
    quiet: bool = False
    log_level: str = "warning"
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Processes that call the model at once: what ceilings and caps are divided by."""
        return self.dataflow_workers or self.direct_num_workers

    @property
    def results_dataset(self) -> tuple[str, str]:
        """Project and dataset of the results."""
        project, _, dataset = self.results.rpartition(".")
        return project, dataset


AnySettings = TypeVar("AnySettings", bound=ClassifySettings)


def classify_settings(
    argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]
) -> tuple[ClassifySettings, list[str]]:
    """The settings of ``imagebeam classify``, and the options that Beam gets.

    Args:
        argv: Arguments after ``classify``.
        cwd: Directory that relative paths start from; ``imagebeam.yaml`` is looked for here.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the project when nothing else says one. See
            :mod:`imagebeam.pipeline.run.dataflow_options` for what else Dataflow takes from it.

    Raises:
        UserError: Unknown flag or key, bad value, contradiction, missing file.
    """
    said = read_flags(argv, CLASSIFY, command="imagebeam classify", cwd=cwd, environ=environ)
    if said.values["task"] is None:
        raise UserError("no task: --task=NAME says what to ask; imagebeam tasks list shows the names")
    require(said.values)
    check(said.values, said.given)
    return with_beam(ClassifySettings(**field_values(said, ClassifySettings, CLASSIFY, cwd)), said, environ)


def new_run_id(now: dt.datetime | None = None) -> str:
    """A run id that no other run has: the time in UTC, and six random hex digits.

    >>> new_run_id(dt.datetime(2026, 11, 21, 6, 30, tzinfo=dt.timezone.utc))[:16]
    '20261121-063000-'
    """
    moment = (now or dt.datetime.now(dt.UTC)).astimezone(dt.UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def require(values: Mapping[str, Any]) -> None:
    """Makes sure that source, results and project are known.

    Raises:
        UserError: One is not; says how to give it.
    """
    where = "on the command line or in imagebeam.yaml"
    if not any(values[name] for name in SOURCES):
        raise UserError(f"no source: give --source=project.dataset.table, --query or --query_file {where}")
    if values["results"] is None:
        raise UserError(f"no results: give --results=DATASET, where answers go, {where}")
    if values["project"] is None:
        raise UserError("no project: give --project=PROJECT, or export GOOGLE_CLOUD_PROJECT")


def check(
    values: dict[str, Any], given: Mapping[str, Any], check_lane: Callable[[Mapping[str, Any]], None] | None = None
) -> None:
    """Makes sure that the values go together.

    Args:
        values: The value of every flag.
        given: Those that a person gave.
        check_lane: Checks what ``--lane=batch`` needs besides; by default what it needs for questions.

    Raises:
        UserError: They do not; says what to change.
    """
    sources = [name for name in SOURCES if values[name]]
    if len(sources) > 1:
        raise UserError(f"--{sources[0]} and --{sources[1]} are both given: the source is one of them")
    if values["columns"] and values["profile"] == "auto":
        values["profile"] = "custom"
    if (values["profile"] == "custom") != bool(values["columns"]):
        raise UserError(
            "profile custom needs --columns, such as --columns=observation_id=photo_id,gcs_uri=file.uri"
            if values["profile"] == "custom"
            else f"--columns is for profile custom, not {values['profile']}: leave one of them out"
        )
    if values.get("max_images") and values["unit"] == UnitKind.OBSERVATION:
        raise UserError("--max_images is for --unit=asset: an observation is one image")
    parse_due(",".join(values["due"]))
    start, end = values["captured_from"], values["captured_until"]
    if start and end and dt.datetime.fromisoformat(start[:-1]) >= dt.datetime.fromisoformat(end[:-1]):
        raise UserError(f"--captured_from={start} is not before --captured_until={end}: nothing can match")
    if (
        values["unit_deadline_s"] < values["call_timeout_s"]
        and "unit_deadline_s" in given
        and "call_timeout_s" in given
    ):
        raise UserError(
            f"--unit_deadline_s={values['unit_deadline_s']:g} is shorter than --call_timeout_s="
            f"{values['call_timeout_s']:g}: a single call could outlast the unit"
        )
    if values["lane"] == Lane.BATCH:
        _check_batch_place(values)
        (check_lane or _check_batch)(values)
    elif wrong := [flag.name for flag in BATCH_ONLY if given.get(flag.name, flag.default) != flag.default]:
        raise UserError(f"--{wrong[0]} is for --lane=batch; this run's lane is {values['lane']}")
    if values["runner"] == "DataflowRunner" and not values["work_dir"].startswith("gs://"):
        raise UserError(
            f"--work_dir={values['work_dir']} is on this machine, where workers of Dataflow cannot see it; "
            "give --work_dir=gs://bucket/path"
        )
    if values["runner"] == "DataflowRunner" and values["direct_num_workers"] > 1:
        raise UserError("--direct_num_workers is for FnApiRunner; on Dataflow give --num_workers")


def _check_batch_place(values: Mapping[str, Any]) -> None:
    if not values["work_dir"].startswith("gs://"):
        raise UserError(
            f"--lane=batch writes its jobs' input where Vertex AI can read it, and --work_dir={values['work_dir']} is "
            "on this machine; give --work_dir=gs://bucket/path"
        )


def _check_batch(values: Mapping[str, Any]) -> None:
    if values["transport"] == Transport.INLINE:
        raise UserError(
            "--lane=batch sends images by URI, and --transport=inline sends their bytes: use --lane=flex, which costs "
            "the same"
        )
    if values["location"] in ("us", "eu"):
        raise UserError(
            f"batch jobs are made at global or at a region, and --location={values['location']} is neither: use "
            "--location=global, or --lane=online"
        )
    for name in ("batch_source", "batch_destination"):
        if values[name] == "bigquery" and values["location"] in ("global", "us", "eu"):
            raise UserError(
                f"--{name}=bigquery needs a model at a region, and --location={values['location']} is none: batch jobs "
                f"use tables of their own region only; leave --{name} at gcs"
            )


def field_values(said: FlagValues, settings: type, flags: tuple[Flag, ...], cwd: Path) -> dict[str, Any]:
    """The values of a settings class, from those of the flags: names in full, texts read, paths made absolute.

    Raises:
        UserError: A file cannot be read, or a directory not be written.
    """
    values, known = said.values, by_name(flags)
    names = {field.name for field in dataclasses.fields(settings)}
    plain = {name: value for name, value in values.items() if name in names}
    project = values["project"]
    query = _text_of("query_file", values, cwd) or values["query"]
    polygon = _text_of("polygon_file", values, cwd)
    if polygon:
        filters.areas(polygon, where=f"--polygon_file={values['polygon_file']}")
    return plain | {
        "columns": values["columns"] or {},
        "source": _qualified(SOURCE, values["source"], project),
        "query": query,
        "polygon": polygon,
        "results": _qualified(RESULTS, values["results"], project),
        "work_dir": work_directory(values["work_dir"], cwd),
        "run_id": values["run_id"] or new_run_id(),
        "lane": Lane(values["lane"]),
        "transport": Transport(values["transport"]),
        "batch_fallback": Lane(values["batch_fallback"]),
        "unit": UnitKind(values["unit"]) if values["unit"] else None,
        "max_cost_usd": _dollars(values["max_cost_usd"]),
        "models_file": _path(values["models_file"], cwd) if values["models_file"] else None,
        "given": {name: flag_values.to_text(known[name], value) for name, value in said.given.items()},
    }


def _qualified(flag: Flag, name: str | None, project: str) -> str | None:
    """A table or dataset with its project in front, dots between, as GoogleSQL writes it."""
    found = re.fullmatch(flag.pattern or "", name or "")
    if found is None:
        return None
    parts = found.groupdict()
    names = (parts["project"] or project, parts["dataset"], parts.get("table"))
    return ".".join(part for part in names if part)


def _dollars(written: float | None) -> Decimal | None:
    """The decimal number that a person wrote, not the binary one next to it."""
    return None if written is None else Decimal(flag_values.to_text(MAX_COST_USD, written))


def _path(written: str, cwd: Path) -> Path:
    # A shell does not expand the ~ of --work_dir=~/runs.
    return cwd / Path(written).expanduser()


def _text_of(name: str, values: Mapping[str, Any], cwd: Path) -> str | None:
    if values[name] is None:
        return None
    path, where = _path(values[name], cwd), f"--{name}={values[name]}"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{where} is no text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from None
    if not text:
        raise UserError(f"{where} is empty")
    return text


def work_directory(text: str, cwd: Path) -> str:
    """Where runs leave things: ``gs://`` or an absolute local directory that can be written.

    Raises:
        UserError: It cannot be that.
    """
    if text.startswith("gs://"):
        bucket = text.removeprefix("gs://").partition("/")[0]
        if not bucket:
            raise UserError(f"--work_dir={text} has no bucket; write gs://bucket/path")
        if parse_gs_uri(f"{text.rstrip('/')}/file") is None:
            raise UserError(
                f"--work_dir={quote(text)} is no place in Cloud Storage; write gs://bucket/path, "
                "where the bucket's name is 3 to 222 lower-case letters, digits, dots, dashes and underscores"
            )
        return text.rstrip("/")
    if "://" in text:
        raise UserError(f"--work_dir={text}: a local directory or gs://bucket/path")
    directory = _path(text, cwd).absolute()
    standing = next(parent for parent in (directory, *directory.parents) if os.access(parent, os.F_OK))
    if not standing.is_dir():
        raise UserError(f"--work_dir={text}: {standing} is a file, not a directory")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"--work_dir={text}: {standing} is not writable for you; give another --work_dir")
    return str(directory)


def with_beam(settings: AnySettings, said: FlagValues, environ: Mapping[str, str]) -> tuple[AnySettings, list[str]]:
    """The settings, and the options that Beam gets: those of ours that it has too, its own, and what Dataflow needs.

    Raises:
        UserError: Dataflow needs an option that nobody gave.
    """
    ours = [f"--{flag.name}={getattr(settings, flag.name)}" for flag in CLASSIFY if flag.to_beam]
    overridden = {argument.partition("=")[0] for argument in said.line_beam}
    kept = [argument for argument in said.file_beam if argument.partition("=")[0] not in overridden]
    beam = [*ours, *kept, *said.line_beam]
    if settings.runner != "DataflowRunner":
        return settings, beam
    job = dataflow_options.complete(beam, work_dir=settings.work_dir, run_id=settings.run_id, environ=environ)
    return dataclasses.replace(settings, dataflow_workers=job.workers), job.arguments

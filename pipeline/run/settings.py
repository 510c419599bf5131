"""The settings of a run, typed and checked: flags over ``imagebeam.yaml`` over defaults.

Nothing here imports Beam or a client, calls a service or writes anything.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pydantic

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import config_file
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import CLASSIFY, ClassifyFlags
from imagebeam.pipeline.flags.inputs import DATASET, TABLE
from imagebeam.pipeline.flags.layers import ALTERNATIVES, FlagValues
from imagebeam.pipeline.flags.model import flags_of
from imagebeam.pipeline.flags.setting import Flags, Group
from imagebeam.pipeline.run import dataflow_options
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import new_run_id
from imagebeam.transforms.core.images import parse_gs_uri
from imagebeam.transforms.core.records import Lane, Transport, UnitKind
from imagebeam.transforms.core.text import quote
from imagebeam.transforms.sql import filters
from imagebeam.transforms.sql.selection import Selection, parse_due, parse_reprocess
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.catalog import TaskFile
from imagebeam.transforms.tasks.model_names import parse_model_name


class ClassifySettings(ClassifyFlags):
    """Settings of ``imagebeam classify``: those of :class:`ClassifyFlags`, and what follows from them.

    Attributes:
        polygon: GeoJSON text of ``polygon_file``.
        dataflow_workers: Workers of Dataflow, a fixed number; None for any other runner.
        given: Settings from the command line and the file, as text, for the table ``runs``.
    """

    polygon: str | None = None
    dataflow_workers: int | None = None
    given: Mapping[str, str] = pydantic.Field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Processes that call the model at once: ceilings and caps are divided by this."""
        return self.dataflow_workers or self.direct_num_workers

    @property
    def selection(self) -> Selection:
        """States of the units to process."""
        if self.due:
            return parse_due(",".join(self.due))
        return parse_reprocess(",".join(self.reprocess)) if self.reprocess else Selection()

    def task_file(self, cwd: Path) -> TaskFile:
        """Find the file of the task, or build it from the prompt.

        Args:
            cwd: Directory that relative paths start from.

        Raises:
            UserError: The task does not exist, or is given twice.
        """
        if self.prompt is None:
            return catalog.find_task(self.task, cwd)
        return catalog.prompt_task(self.task, self.prompt, self.answer_schema, cwd)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with changed values, which are not checked against each other."""
        return self.model_copy(update=changes)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        """Check that the values are consistent.

        Raises:
            UserError: They are not; the message contains the fix.
        """
        if self.reprocess and self.due:
            raise UserError(
                "--reprocess and --due are both given: use --reprocess, which adds to new units and retries"
            )
        if (self.profile == "custom") != bool(self.columns):
            raise UserError(
                "profile custom needs --columns, such as --columns=observation_id=photo_id,gcs_uri=file.uri"
                if self.profile == "custom"
                else f"--columns is for profile custom, not {self.profile}: leave one of them out"
            )
        if self.answer_schema is not None and self.prompt is None:
            raise UserError("--schema is for --prompt: a task file has its own schema; leave it out")
        if self.max_images and self.unit == UnitKind.OBSERVATION:
            raise UserError("--max_images requires --unit=asset: an observation has one image")
        _ = self.selection  # checks the reasons of failures
        start, end = self.captured_from, self.captured_until
        if start and end and dt.datetime.fromisoformat(start[:-1]) >= dt.datetime.fromisoformat(end[:-1]):
            raise UserError(f"--captured_from={start} is not before --captured_until={end}: nothing can match")
        if self.unit_deadline_s < self.call_timeout_s and {"unit_deadline_s", "call_timeout_s"} <= self.given.keys():
            raise UserError(
                f"--unit_deadline_s={self.unit_deadline_s:g} is shorter than --call_timeout_s={self.call_timeout_s:g}: "
                "one call could exceed the deadline of its unit"
            )
        self._check_place()
        if self.lane == Lane.BATCH:
            self.check_batch()
        elif wrong := changed(self, Group.BATCH):
            raise UserError(f"--{wrong[0]} is for --lane=batch; this run's lane is {self.lane}")
        return self

    def _check_place(self) -> None:
        """Check that other machines can read the work directory."""
        local = not self.work_dir.startswith("gs://")
        if self.lane == Lane.BATCH and local:
            raise UserError(
                f"--lane=batch needs a work directory that Vertex AI can read, and --work_dir={self.work_dir}"
                " is a local directory; use --work_dir=gs://bucket/path"
            )
        if self.runner == "DataflowRunner" and local:
            raise UserError(
                f"--work_dir={self.work_dir} is a local directory, which Dataflow workers cannot access; "
                "use --work_dir=gs://bucket/path"
            )
        if self.runner == "DataflowRunner" and self.direct_num_workers > 1:
            raise UserError("--direct_num_workers is for FnApiRunner; on Dataflow use --num_workers")

    def check_batch(self) -> None:
        """Check what ``--lane=batch`` needs.

        Raises:
            UserError: A value that batch jobs cannot have.
        """
        if self.transport == Transport.INLINE:
            raise UserError(
                "--lane=batch sends images by URI, and --transport=inline sends their bytes: use --lane=flex, which "
                "costs the same"
            )
        if self.location in ("us", "eu"):
            raise UserError(
                f"batch jobs run at global or in a region, and --location={self.location} is neither: use "
                "--location=global, or --lane=online"
            )
        for name in ("batch_source", "batch_destination"):
            if getattr(self, name) == "bigquery" and self.location == "global":
                raise UserError(
                    f"--{name}=bigquery needs a model in a region, not --location={self.location}: batch jobs use "
                    f"tables of their own region only; leave --{name} at gcs, or use --location=REGION with a "
                    "--batch_dataset there"
                )
        if self.batch_dataset and "bigquery" not in (self.batch_source, self.batch_destination):
            raise UserError("--batch_dataset is for --batch_source=bigquery or --batch_destination=bigquery")
        if self.batch_output_table and self.batch_destination != "bigquery":
            raise UserError("--batch_output_table is for --batch_destination=bigquery")


AnySettings = TypeVar("AnySettings", bound=ClassifySettings)


def changed(settings: ClassifySettings, group: Group) -> list[str]:
    """Return the names of the settings under a heading that do not have their default."""
    flags = flags_of(type(settings)).values()
    return [flag.name for flag in flags if flag.group is group and getattr(settings, flag.name) != flag.default]


def load_classify(line: FlagValues, *, cwd: Path, environ: Mapping[str, str]) -> tuple[ClassifySettings, list[str]]:
    """Return the settings of ``imagebeam classify``, and the options that Beam gets.

    Args:
        line: The command line.
        cwd: Directory that relative paths start from and that may contain ``imagebeam.yaml``.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the default project. See
            :mod:`imagebeam.pipeline.run.dataflow_options` for what else Dataflow takes from it.

    Raises:
        UserError: Unknown key, invalid value, contradiction, missing file.
    """
    found = merge_layers(line, CLASSIFY, cwd=cwd)
    if "task" not in found.given:
        if "prompt" in found.given:
            raise UserError("--prompt needs a name for its answers: set --task=NAME, such as --task=contents")
        raise UserError("no task: set --task=NAME; imagebeam tasks list prints the names")
    values = resolve(found, CLASSIFY, cwd=cwd, environ=environ)
    settings = ClassifySettings(**values, **_model_location(values, cwd))
    return with_beam(settings, found, environ)


def merge_layers(line: FlagValues, flags: Flags, *, cwd: Path) -> FlagValues:
    """Return the command line over the file.

    Args:
        line: The command line.
        flags: Settings of the command. What the file sets for other commands is ignored.
        cwd: Directory that may contain ``imagebeam.yaml``.

    Raises:
        UserError: Unknown key, invalid value, or an option of Beam that the runner does not use.
    """
    file = config_file.read(cwd / str(line.get(flags["config"])), required="config" in line.given)
    ours = {name: value for name, value in file.given.items() if name in flags and flags[name].in_file}
    if "runner" not in flags:
        return line.over(FlagValues(ours))
    runner = line.given.get("runner", ours.get("runner", flags["runner"].default))
    beam_flags.check_runner(line.beam, runner)
    # The file may be for several runners.
    return line.over(FlagValues(ours, beam_flags.for_runner(file.beam, runner)))


def resolve_project(found: FlagValues, environ: Mapping[str, str]) -> str:
    """Return the project that was given, or that of the environment.

    Raises:
        UserError: Neither is there.
    """
    name = "GOOGLE_CLOUD_PROJECT"
    project: str | None = found.given.get("project")
    if project is None and environ.get(name):
        project = flag_values.read(CLASSIFY["project"], environ[name], where=name)
    if project is None:
        raise UserError("no project: set --project=PROJECT, or export GOOGLE_CLOUD_PROJECT")
    return project


def resolve(found: FlagValues, flags: Flags, *, cwd: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a run's settings class: names in full, files read, paths absolute.

    Raises:
        UserError: A required setting is missing, a file cannot be read, or a directory is not writable.
    """
    values = dict(found.given)
    here = "on the command line or in imagebeam.yaml"
    if not has_source(values):
        raise UserError(f"no source: set --source=project.dataset.table, --query or --query_file {here}")
    if "results" not in values:
        raise UserError(f"no results: set --results=DATASET, the dataset for the answers, {here}")
    values["project"] = project = resolve_project(found, environ)
    values = resolve_source(values, project, cwd)
    if "polygon_file" in values:
        values["polygon"] = _read_text("polygon_file", values["polygon_file"], cwd)
        filters.areas(values["polygon"], where=f"--polygon_file={values['polygon_file']}")
    if "batch_dataset" in values:
        values["batch_dataset"] = qualified_name(DATASET, values["batch_dataset"], project)
    return values | {
        "results": qualified_name(DATASET, values["results"], project),
        "work_dir": work_directory(str(found.get(flags["work_dir"])), cwd),
        "run_id": values.get("run_id") or new_run_id(),
        "models_file": _path(values["models_file"], cwd) if "models_file" in values else None,
        **({"schema": _path(values["schema"], cwd)} if "schema" in values else {}),
        "given": found.as_text(flags),
    }


def has_source(values: Mapping[str, Any]) -> bool:
    """Return whether settings name a source."""
    return any(name in values for name in ALTERNATIVES[0])


def resolve_source(values: Mapping[str, Any], project: str, cwd: Path) -> dict[str, Any]:
    """Return the settings of a source: a table with its project, a query file read.

    Args:
        values: Settings as given.
        project: Project of a table without one.
        cwd: Directory that relative paths start from.

    Raises:
        UserError: Two sources are given, or the query file cannot be read.
    """
    found = dict(values)
    sources = [name for name in ALTERNATIVES[0] if name in found]
    if len(sources) > 1:
        raise UserError(f"--{sources[0]} and --{sources[1]} are both given: the source is one of them")
    if "columns" in found and found.get("profile", "auto") == "auto":
        found["profile"] = "custom"
    if "query_file" in found:
        found["query"] = _read_text("query_file", found["query_file"], cwd)
    if "source" in found:
        found["source"] = qualified_name(TABLE, found["source"], project)
    return found


def _model_location(values: Mapping[str, Any], cwd: Path) -> dict[str, Any]:
    """Return the location that the name of the model has, as the setting ``location``; nothing if it has none.

    Raises:
        UserError: Another location is given.
    """
    try:
        models = catalog.load_models_file(values["models_file"])
        written = values.get("model")
        if written is None and "prompt" not in values:
            written = catalog.read_model(catalog.find_task(values["task"], cwd), models)
        written = written or models.default
        name = parse_model_name(written)
    except UserError:
        return {}  # reported by the check of the task
    if name.location is None or "location" not in values:
        return {} if name.location is None else {"location": name.location}
    if values["location"] != name.location:
        raise UserError(f"--location={values['location']}, but model {written} is in {name.location}: leave it out")
    return {}


def qualified_name(pattern: str, name: str, project: str) -> str:
    """Return a table or dataset with its project, dots between, as GoogleSQL writes it.

    >>> qualified_name(DATASET, "answers", "my-project")
    'my-project.answers'
    """
    found = re.fullmatch(pattern, name)
    parts = found.groupdict() if found else {}
    names = (parts.get("project") or project, parts.get("dataset"), parts.get("table"))
    return ".".join(part for part in names if part)


def _path(written: str, cwd: Path) -> Path:
    # A shell does not expand the ~ of --work_dir=~/runs.
    return cwd / Path(written).expanduser()


def _read_text(name: str, written: str, cwd: Path) -> str:
    where = f"--{name}={written}"
    try:
        text = _path(written, cwd).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from None
    if not text:
        raise UserError(f"{where} is empty")
    return text


def work_directory(text: str, cwd: Path) -> str:
    """Return the directory for the files of runs: ``gs://``, or an absolute local one that is writable.

    Raises:
        UserError: Invalid, or not writable.
    """
    if text.startswith("gs://"):
        bucket = text.removeprefix("gs://").partition("/")[0]
        if not bucket:
            raise UserError(f"--work_dir={text} has no bucket; write gs://bucket/path")
        if parse_gs_uri(f"{text.rstrip('/')}/file") is None:
            raise UserError(
                f"--work_dir={quote(text)} is not a valid Cloud Storage path; write gs://bucket/path, "
                "where the bucket's name is 3 to 222 lowercase letters, digits, dots, dashes and underscores"
            )
        return text.rstrip("/")
    if "://" in text:
        raise UserError(f"--work_dir={text}: a local directory or gs://bucket/path")
    directory = _path(text, cwd).absolute()
    standing = next(parent for parent in (directory, *directory.parents) if os.access(parent, os.F_OK))
    if not standing.is_dir():
        raise UserError(f"--work_dir={text}: {standing} is a file, not a directory")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"--work_dir={text}: {standing} is not writable; use another --work_dir")
    return str(directory)


def with_beam(settings: AnySettings, found: FlagValues, environ: Mapping[str, str]) -> tuple[AnySettings, list[str]]:
    """Return the settings, and the options that Beam gets: shared ones, its own, and what Dataflow needs.

    Raises:
        UserError: An option is missing that Dataflow needs.
    """
    beam = [f"--{name}={getattr(settings, name)}" for name, flag in CLASSIFY.items() if flag.to_beam]
    beam += found.beam
    if settings.runner != "DataflowRunner":
        return settings, beam
    job = dataflow_options.build_dataflow_job(beam, work_dir=settings.work_dir, run_id=settings.run_id, environ=environ)
    return settings.replace(dataflow_workers=job.workers), job.arguments

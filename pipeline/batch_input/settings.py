"""The settings of ``imagebeam batch run``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting, pick
from imagebeam.pipeline.run.settings import merge_layers, resolve_project, work_directory
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.tasks.model_names import ModelName, parse_model_name

_PLACE: Final = r"(?:gs|bq)://[^\s,*]+"


# fmt: off
class InputFlags(Settings, group=Group.SOURCE, in_file=False):
    """Input, output and model of one job."""

    input: Annotated[str, Setting(
        "Requests of the job: one JSONL file, or a BigQuery table with a column request.",
        metavar="PLACE", pattern=_PLACE, form="one gs://bucket/file.jsonl or bq://project.dataset.table",
        example="gs://my-bucket/requests.jsonl")]
    output: Annotated[str, Setting(
        "Where the job writes its answers: a Cloud Storage directory, or a BigQuery table that does not exist yet.",
        metavar="PLACE", pattern=_PLACE, form="one gs://bucket/directory or bq://project.dataset.table",
        example="bq://my-project.my_dataset.answers", group=Group.RESULTS)]
    model: Annotated[str, Setting(
        "Model of the job.", metavar="MODEL", example="gemini-2.5-flash", group=Group.MODEL)]
    location: Annotated[str | None, Setting(
        "Location of the job.", metavar="LOCATION", pattern=str(CLASSIFY["location"].pattern),
        form=CLASSIFY["location"].form, example="us-central1", group=Group.MODEL,
        computed="that of a tuned model or of the tables, else global")] = None
    display_name: Annotated[str | None, Setting(
        "Display name of the job.", metavar="NAME", pattern=r".{1,128}", form="1 to 128 characters",
        example="monday-poles", group=Group.BATCH, computed="imagebeam and the run id")] = None
# fmt: on


#: Settings of ``imagebeam batch run``.
BATCH_RUN: Final[Flags] = {
    **flags_of(InputFlags),
    **pick(CLASSIFY, "price_as", "project", "work_dir", "batch_poll_s", "batch_grace_s"),
    "no_wait": dataclasses.replace(CLASSIFY["no_wait"], help="Return when the job is created."),
    **pick(CLASSIFY, "models_file", "json", "config"),
    "run_id": dataclasses.replace(
        CLASSIFY["run_id"],
        help="Name of the run. A run with this name continues instead of starting.",
        computed="derived from the settings and the version of the input, so that the same command continues its run",
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class InputSettings:
    """Settings of ``imagebeam batch run``.

    Attributes:
        project: Project that is billed.
        location: Location of the job; None where tables decide it.
        model: Name of the model.
        price_as: Model whose prices apply; None for those of the model.
        source: ``gs://`` file or ``bq://`` table of the requests.
        destination: ``gs://`` directory or ``bq://`` table of the answers.
        display_name: Display name; None for the default.
        work_dir: Directory for the state of the run.
        run_id: Name of the run; None for the derived one.
        models_file: File with models and prices; None for the shipped one.
        grace_s: Seconds to wait for a job whose creation was interrupted, before it is created again.
        poll_s: Seconds between two polls.
        wait: Wait for the end of the job.
        as_json: Print the summary as JSON.
    """

    project: str
    location: str | None
    model: ModelName
    price_as: str | None
    source: str
    destination: str
    display_name: str | None
    work_dir: str
    run_id: str | None
    models_file: Path | None
    grace_s: float
    poll_s: float
    wait: bool
    as_json: bool


def load_input(line: FlagValues, *, cwd: Path, environ: Mapping[str, str]) -> InputSettings:
    """Return the settings of ``imagebeam batch run``.

    Args:
        line: The command line.
        cwd: Directory that relative paths start from and that may contain ``imagebeam.yaml``.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the default project.

    Raises:
        UserError: A flag is missing or invalid.
    """
    found = merge_layers(line, BATCH_RUN, cwd=cwd)
    for name in ("input", "output", "model"):
        if name not in found.given:
            raise UserError(f"no {name}: set --{name}, such as --{name}={BATCH_RUN[name].example}")
    value = {name: found.get(setting) for name, setting in BATCH_RUN.items()}
    model = parse_model_name(value["model"])
    if model.location is not None and value["location"] not in (None, model.location):
        raise UserError(f"--location={value['location']}, but model {model.name} is in {model.location}: leave it out")
    return InputSettings(
        project=resolve_project(found, environ),
        location=model.location or value["location"],
        model=model,
        price_as=value["price_as"],
        source=value["input"],
        destination=value["output"].rstrip("/"),
        display_name=value["display_name"],
        work_dir=work_directory(str(value["work_dir"]), cwd),
        run_id=value["run_id"],
        models_file=cwd / Path(value["models_file"]).expanduser() if value["models_file"] else None,
        grace_s=value["batch_grace_s"],
        poll_s=value["batch_poll_s"],
        wait=not value["no_wait"],
        as_json=value["json"],
    )

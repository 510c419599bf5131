"""The gcloud commands that build a Flex Template and start a job from it. Nothing here runs them."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from imagebeam.pipeline.dataflow.template_metadata import (
    FILES,
    NO_PARAMETERS,
    check_value,
    is_path,
)
from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.run import dataflow_options
from imagebeam.pipeline.run.embed_settings import DEFAULT_JOB, Job
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.tasks import catalog

#: Options of Beam that gcloud has flags of its own for: Beam's name, gcloud's.
_GCLOUD: Final[Mapping[str, str]] = {
    "region": "region",
    "temp_location": "temp-location",
    "staging_location": "staging-location",
    "num_workers": "num-workers",
    "max_num_workers": "max-workers",
    "machine_type": "worker-machine-type",
    "worker_region": "worker-region",
    "worker_zone": "worker-zone",
    "network": "network",
    "subnetwork": "subnetwork",
    "service_account_email": "service-account-email",
    "dataflow_kms_key": "dataflow-kms-key",
    "flexrs_goal": "flexrs-goal",
}
#: Options that become something else in a command.
_HANDLED: Final = frozenset(_GCLOUD) | {
    *("project", "job_name", "runner", "direct_num_workers", "sdk_container_image", "worker_machine_type"),
    *("label", "labels", "experiment", "experiments", "use_public_ips", "no_use_public_ips"),
}
#: Options about what workers install: the template's image has everything.
_OF_THE_IMAGE: Final = ("setup_file", "requirements_file", "extra_packages", "sdk_container_image")
#: Stands for the workers' image, which only the template knows.
_TEMPLATES_IMAGE: Final = "the-image-of-the-template"
_IMAGE = re.compile(r"[a-z0-9][a-z0-9.:-]*(?:/[a-z0-9._-]+)+(?P<version>:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})?")
#: gcloud splits lists and maps at commas; ``^~^`` in front makes it split at ``~`` instead.
_SEPARATORS: Final = "~|;!#%@"


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """A start of a job.

    Attributes:
        commands: gcloud commands, in order; the last one starts the job.
        parameters: The template's parameters.
        summary: Where the run's books will be.
    """

    commands: list[list[str]]
    parameters: Mapping[str, str]
    summary: str


def build_commands(
    job: Job, root: Path, *, image: str, template: str, project: str | None, reuse: bool = False
) -> list[list[str]]:
    """The commands that build the image and write the template.

    Args:
        job: What the template is for.
        root: The checkout, with ``templates/`` in it.
        image: Name of the image, with a tag.
        template: ``gs://`` place of the template.
        project: Project that builds; gcloud's own when None.
        reuse: The image is there already.

    Raises:
        UserError: The image has no tag of its own, or the template is no ``gs://`` place.
    """
    check_image(image)
    check_template(template)
    of_project = [f"--project={project}"] if project else []
    places = [str(root / "templates" / name) for name in ("cloudbuild.yaml", f"{job.name}.json")]
    build = [
        *("gcloud", "builds", "submit", str(root)),
        *(f"--config={places[0]}", f"--substitutions=_IMAGE={image}", *of_project),
    ]
    write = [
        *("gcloud", "dataflow", "flex-template", "build", template),
        *(f"--image={image}", "--sdk-language=PYTHON", f"--metadata-file={places[1]}", *of_project),
    ]
    return [write] if reuse else [build, write]


def launch(job: Job, given: FlagValues, *, template: str, cwd: Path, environ: Mapping[str, str]) -> Launch:
    """Checks the parameters as the job itself will, and gives the commands.

    Args:
        job: What the template is for.
        given: Flags of the job and options of Beam.
        template: ``gs://`` place of the template.
        cwd: Directory that relative paths start from; ``imagebeam.yaml`` is looked for here.
        environ: The environment.

    Raises:
        UserError: Something that the job would refuse, or that a template cannot do.
    """
    check_template(template)
    start = checked(job, given, cwd=cwd, environ=environ)
    options, parameters = start.options, {**start.parameters, "run_id": start.settings.run_id}
    command = [
        *("gcloud", "dataflow", "flex-template", "run", options.job_name, f"--template-file-gcs-location={template}"),
        f"--project={start.settings.project}",
        *_environment(options, start.beam),
        *(f"--parameters={escaped([f'{name}={parameters[name]}'])}" for name in sorted(parameters)),
    ]
    summary = f"{start.settings.work_dir}/runs/{start.settings.run_id}/summary.json"
    return Launch([*start.copying, command], parameters, summary)


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """A start as it was asked for, checked.

    Attributes:
        settings: Of the run.
        options: All options of Beam, read.
        beam: The same, as Beam takes them.
        parameters: Flags of the run as text, without ``run_id``; files are in Cloud Storage.
        copying: Commands that bring the files of this machine there.
    """

    settings: ClassifySettings
    options: argparse.Namespace
    beam: Sequence[str]
    parameters: Mapping[str, str]
    copying: list[list[str]]


def checked(
    job: Job,
    given: FlagValues,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    of_template: bool = True,
) -> Start:
    """Checks a start elsewhere, as the job itself will.

    Files on this machine are copied below the work directory first, because whoever starts the job cannot see them.

    Args:
        job: What is started.
        given: Flags of the job and options of Beam.
        cwd: Directory that relative paths start from; ``imagebeam.yaml`` is looked for here.
        environ: The environment.
        of_template: Whether a template starts it, which has not all parameters and always runs on Dataflow.

    Raises:
        UserError: Something that the job would refuse, or that a template cannot do.
    """
    without = NO_PARAMETERS.keys() if of_template else {"runner"}
    if of_template:
        for name in given.given.keys() & NO_PARAMETERS.keys() - {"project"}:
            raise UserError(f"--{name} is not a parameter of this template: {NO_PARAMETERS[name]}")
    remote = {name: text for name in FILES if str(text := given.given.get(name, "")).startswith("gs://")}
    settings, beam = job.load(
        _without_remote_files(given, remote),
        cwd=cwd,
        environ={**environ, dataflow_options.IMAGE_VARIABLE: _TEMPLATES_IMAGE},
    )
    if "task" in job.flags and not remote.keys() & {"task", "models_file"}:
        catalog.load_task(settings.task, catalog.load_models_file(settings.models_file), cwd)
    options = beam_flags.read(beam)
    for name in _OF_THE_IMAGE:
        if getattr(options, name) not in (None, _TEMPLATES_IMAGE):
            raise UserError(f"--{name}: workers use the image of the template, which has everything; leave it out")
    if of_template:
        for name, text in settings.given.items():
            check_value(name, text)
    parameters = {name: text for name, text in settings.given.items() if name not in without}
    parameters["work_dir"] = settings.work_dir
    # Who starts it has another directory: what the file here says is among the parameters already.
    for name in ("config", "run_id"):
        parameters.pop(name, None)
    if of_template and job.name != DEFAULT_JOB:
        parameters["job"] = job.name
    if "query_file" in remote:
        parameters.pop("query")
    directory = f"{settings.work_dir}/launches/{settings.run_id}"
    copies = _copies({**parameters, **remote}, directory, cwd)
    parameters |= remote | {name: target for name, (_, target) in copies.items()}
    copying = [["gcloud", "storage", "cp", source, target] for source, target in copies.values()]
    return Start(settings, options, beam, parameters, copying)


def check_template(template: str) -> None:
    """Checks the place of a template.

    Raises:
        UserError: It is not ``gs://bucket/name.json``.
    """
    dataflow_options.check_bucket_path("template", template)
    if not template.endswith(".json") or template.endswith("/.json"):
        raise UserError(f"--template={template}: write gs://bucket/path/name.json")


def check_image(image: str, *, built: bool = False) -> None:
    """Checks the name of an image; one that is built already may have a digest.

    Raises:
        UserError: It is no name of an image, or names no certain one.
    """
    found = _IMAGE.fullmatch(image)
    if found is None:
        raise UserError(f"--image={image}: write REGION-docker.pkg.dev/PROJECT/REPOSITORY/imagebeam:TAG")
    if found["version"] in (None, ":latest"):
        raise UserError(
            f"--image={image}: give it a tag of its own, such as {image.removesuffix(':latest')}:2026-11-21; workers "
            "that start later would get another image under the same name"
        )
    if found["version"].startswith("@") and not built:
        raise UserError(f"--image={image}: give the tag that it is built with, which it also names its workers by")


def _without_remote_files(given: FlagValues, remote: Mapping[str, str]) -> FlagValues:
    """Return the command line to check here, with other values for files that are in Cloud Storage."""
    if "config" in remote:
        raise UserError(f"--config={remote['config']}: imagebeam.yaml is read here; give a file on this machine")
    values = {name: value for name, value in given.given.items() if name not in remote}
    if "query_file" in remote:
        values["query"] = "SELECT 1"
    if "task" in remote:
        values["task"] = "in_cloud_storage"
    return FlagValues({**values, "runner": "DataflowRunner"}, given.beam)


def _copies(parameters: Mapping[str, str], directory: str, cwd: Path) -> dict[str, tuple[str, str]]:
    """Files of this machine: parameter → where it is, where it goes."""
    copies = {}
    for name in FILES:
        text = parameters.get(name)
        if text is None or text.startswith("gs://"):
            continue
        path = _task_path(text, cwd) if name == "task" else cwd / Path(text).expanduser()
        if path is None:
            continue
        if not path.is_file():
            raise UserError(f"--{name}={text}: no such file")
        copies[name] = (str(path), f"{directory}/{name}{path.suffix}")
    return copies


def _task_path(task: str, cwd: Path) -> Path | None:
    """The file of a person's own task; None for a shipped one."""
    if is_path(task):
        return cwd / task
    found = catalog.find_task(task, cwd)
    return None if found.shipped else cwd / found.source


def _environment(options: argparse.Namespace, beam: Sequence[str]) -> list[str]:
    """The options of Beam, as gcloud takes them."""
    found = [
        f"--{gcloud}={getattr(options, name)}" for name, gcloud in _GCLOUD.items() if getattr(options, name) is not None
    ]
    if options.use_public_ips is False:
        found.append("--disable-public-ips")
    found.append(f"--additional-user-labels={escaped(dataflow_options.label_pairs(options.labels))}")
    if experiments := wanted_experiments(options):
        found.append(f"--additional-experiments={escaped(experiments)}")
    if rest := passed_on(beam):
        found.append(f"--additional-pipeline-options={escaped(rest)}")
    return found


def wanted_experiments(options: argparse.Namespace) -> list[str]:
    """The experiments that a person asked for."""
    return [name for name in options.experiments if name != dataflow_options.ONE_PROCESS]


def passed_on(beam: Sequence[str]) -> list[str]:
    """Options of Beam that a start of a template has no field for, as ``name=value``."""
    rest = [argument.removeprefix("--") for argument in beam if _is_passed_on(argument)]
    return [argument if "=" in argument else f"{argument}=true" for argument in rest]


def _is_passed_on(argument: str) -> bool:
    # What the job in the template adds by itself needs no option in the command.
    return argument.removeprefix("--").partition("=")[0] not in _HANDLED and argument not in dataflow_options.ADDED


def escaped(parts: Sequence[str]) -> str:
    """A list as gcloud reads it, whatever its parts hold.

    >>> escaped(["a=1", "b=2"])
    'a=1,b=2'
    >>> escaped(["due=new,retry"])
    '^~^due=new,retry'

    Raises:
        UserError: No separator is left.
    """
    if not any("," in part for part in parts) and not parts[0].startswith("^"):
        return ",".join(parts)
    separator = next((sign for sign in _SEPARATORS if not any(sign in part for part in parts)), None)
    if separator is None:
        raise UserError(f"{parts[0][:60]}: gcloud needs one of {' '.join(_SEPARATORS)} that the value does not hold")
    return f"^{separator}^{separator.join(parts)}"

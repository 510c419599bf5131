"""Build the gcloud commands that build a Flex Template and launch a job from it. Nothing here runs them."""

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

#: Beam options that have a gcloud flag: Beam's name, gcloud's name.
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
#: Beam options that a command passes in another way.
_HANDLED: Final = frozenset(_GCLOUD) | {
    *("project", "job_name", "runner", "direct_num_workers", "sdk_container_image", "worker_machine_type"),
    *("label", "labels", "experiment", "experiments", "use_public_ips", "no_use_public_ips"),
}
#: Beam options about what workers install, which the image of the template includes.
_IMAGE_OPTIONS: Final = ("setup_file", "requirements_file", "extra_packages", "sdk_container_image")
#: Placeholder for the workers' image, which only the template knows.
_IMAGE_PLACEHOLDER: Final = "the-image-of-the-template"
_IMAGE = re.compile(r"[a-z0-9][a-z0-9.:-]*(?:/[a-z0-9._-]+)+(?P<version>:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})?")
#: gcloud splits lists and maps at commas, or at ``~`` after the prefix ``^~^``.
_SEPARATORS: Final = "~|;!#%@"


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """The launch of a job.

    Attributes:
        commands: gcloud commands, in order; the last one launches the job.
        parameters: Parameters of the template.
        summary: Path of the run's summary.
    """

    commands: list[list[str]]
    parameters: Mapping[str, str]
    summary: str


def build_commands(
    job: Job, root: Path, *, image: str, template: str, project: str | None, reuse: bool = False
) -> list[list[str]]:
    """Return the commands that build the image and write the template.

    Args:
        job: Job of the template.
        root: The checkout, which contains ``templates/``.
        image: Name of the image, with a tag.
        template: ``gs://`` path of the template.
        project: Project that builds; gcloud's default when None.
        reuse: Whether the image exists, so that it is not built.

    Raises:
        UserError: The image has no unique tag, or the template is not a ``gs://`` path.
    """
    check_image(image)
    check_template(template)
    project_flag = [f"--project={project}"] if project else []
    config, metadata = [str(root / "templates" / name) for name in ("cloudbuild.yaml", f"{job.name}.json")]
    build = [
        *("gcloud", "builds", "submit", str(root)),
        *(f"--config={config}", f"--substitutions=_IMAGE={image}", *project_flag),
    ]
    write = [
        *("gcloud", "dataflow", "flex-template", "build", template),
        *(f"--image={image}", "--sdk-language=PYTHON", f"--metadata-file={metadata}", *project_flag),
    ]
    return [write] if reuse else [build, write]


def build_launch(job: Job, given: FlagValues, *, template: str, cwd: Path, environ: Mapping[str, str]) -> Launch:
    """Check the parameters as the job will, and return the commands.

    Args:
        job: Job of the template.
        given: Flags of the job, and Beam options.
        template: ``gs://`` path of the template.
        cwd: Directory that relative paths start from, and that contains ``imagebeam.yaml``.
        environ: The environment.

    Raises:
        UserError: The job would reject a value, or a template does not support it.
    """
    check_template(template)
    spec = check_launch(job, given, cwd=cwd, environ=environ)
    options, parameters = spec.options, {**spec.parameters, "run_id": spec.settings.run_id}
    command = [
        *("gcloud", "dataflow", "flex-template", "run", options.job_name, f"--template-file-gcs-location={template}"),
        f"--project={spec.settings.project}",
        *_environment(options, spec.beam),
        *(f"--parameters={gcloud_list([f'{name}={parameters[name]}'])}" for name in sorted(parameters)),
    ]
    summary = f"{spec.settings.work_dir}/runs/{spec.settings.run_id}/summary.json"
    return Launch([*spec.copy_commands, command], parameters, summary)


@dataclasses.dataclass(frozen=True, slots=True)
class LaunchSpec:
    """A checked launch of a job.

    Attributes:
        settings: Settings of the run.
        options: All Beam options, parsed.
        beam: The same options as command-line arguments.
        parameters: Flags of the run as text, without ``run_id``; files are in Cloud Storage.
        copy_commands: Commands that copy local files there.
    """

    settings: ClassifySettings
    options: argparse.Namespace
    beam: Sequence[str]
    parameters: Mapping[str, str]
    copy_commands: list[list[str]]


def check_launch(
    job: Job,
    given: FlagValues,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    of_template: bool = True,
) -> LaunchSpec:
    """Check the launch of a job on another machine, as the job itself will.

    Local files are copied below the work directory, where the job can read them.

    Args:
        job: The job.
        given: Flags of the job, and Beam options.
        cwd: Directory that relative paths start from, and that contains ``imagebeam.yaml``.
        environ: The environment.
        of_template: Whether a template launches the job. A template lacks some parameters, and runs on Dataflow.

    Raises:
        UserError: The job would reject a value, or a template does not support it.
    """
    without = NO_PARAMETERS.keys() if of_template else {"runner"}
    if of_template:
        for name in given.given.keys() & NO_PARAMETERS.keys() - {"project"}:
            raise UserError(f"--{name} is not a parameter of this template: {NO_PARAMETERS[name]}")
    remote = {name: text for name in FILES if str(text := given.given.get(name, "")).startswith("gs://")}
    settings, beam = job.load(
        _without_remote_files(given, remote),
        cwd=cwd,
        environ={**environ, dataflow_options.IMAGE_VARIABLE: _IMAGE_PLACEHOLDER},
    )
    if "task" in job.flags and not remote.keys() & {"task", "models_file"}:
        catalog.build_task(settings.task_file(cwd), catalog.load_models_file(settings.models_file))
    options = beam_flags.read(beam)
    for name in _IMAGE_OPTIONS:
        if getattr(options, name) not in (None, _IMAGE_PLACEHOLDER):
            raise UserError(f"--{name}: workers use the image of the template; leave it out")
    if of_template:
        for name, text in settings.given.items():
            check_value(name, text)
    parameters = {name: text for name, text in settings.given.items() if name not in without}
    parameters["work_dir"] = settings.work_dir
    # The values of the local config file are among the parameters.
    for name in ("config", "run_id"):
        parameters.pop(name, None)
    if of_template and job.name != DEFAULT_JOB:
        parameters["job"] = job.name
    if "query_file" in remote:
        parameters.pop("query")
    directory = f"{settings.work_dir}/launches/{settings.run_id}"
    copies = _copies({**parameters, **remote}, directory, cwd)
    parameters |= remote | {name: target for name, (_, target) in copies.items()}
    copy_commands = [["gcloud", "storage", "cp", source, target] for source, target in copies.values()]
    return LaunchSpec(settings, options, beam, parameters, copy_commands)


def check_template(template: str) -> None:
    """Check the path of a template.

    Raises:
        UserError: It is not ``gs://bucket/name.json``.
    """
    dataflow_options.check_bucket_path("template", template)
    if not template.endswith(".json") or template.endswith("/.json"):
        raise UserError(f"--template={template} is not a template path: write gs://bucket/path/name.json")


def check_image(image: str, *, built: bool = False) -> None:
    """Check the name of an image.

    Args:
        image: The name.
        built: Whether the image exists, so that a digest is allowed.

    Raises:
        UserError: The name is invalid, or does not identify one image.
    """
    found = _IMAGE.fullmatch(image)
    if found is None:
        raise UserError(
            f"--image={image} is not an image name with a tag: write "
            "REGION-docker.pkg.dev/PROJECT/REPOSITORY/imagebeam:TAG"
        )
    if found["version"] in (None, ":latest"):
        raise UserError(
            f"--image={image}: use a unique tag, such as {image.removesuffix(':latest')}:2026-11-21; workers "
            "that start later could get another image of the same name"
        )
    if found["version"].startswith("@") and not built:
        raise UserError(f"--image={image}: use a tag, not a digest, because the image is built under that tag")


def _without_remote_files(given: FlagValues, remote: Mapping[str, str]) -> FlagValues:
    """Return the command line to check here, with other values for files that are in Cloud Storage."""
    if "config" in remote:
        raise UserError(f"--config={remote['config']}: imagebeam.yaml is read on this machine; use a local file")
    values = {name: value for name, value in given.given.items() if name not in remote}
    if "query_file" in remote:
        values["query"] = "SELECT 1"
    if "task" in remote:
        values["task"] = "in_cloud_storage"
    return FlagValues({**values, "runner": "DataflowRunner"}, given.beam)


def _copies(parameters: Mapping[str, str], directory: str, cwd: Path) -> dict[str, tuple[str, str]]:
    """Return the local files by parameter: path and target."""
    copies = {}
    for name in FILES:
        text = parameters.get(name)
        if text is None or text.startswith("gs://") or (name == "task" and "prompt" in parameters):
            continue
        path = _task_path(text, cwd) if name == "task" else cwd / Path(text).expanduser()
        if path is None:
            continue
        if not path.is_file():
            raise UserError(f"--{name}={text}: file not found")
        copies[name] = (str(path), f"{directory}/{name}{path.suffix}")
    return copies


def _task_path(task: str, cwd: Path) -> Path | None:
    """Return the file of a task; None for a shipped task."""
    if is_path(task):
        return cwd / task
    found = catalog.find_task(task, cwd)
    return None if found.shipped else cwd / found.source


def _environment(options: argparse.Namespace, beam: Sequence[str]) -> list[str]:
    """Return the Beam options as gcloud flags."""
    found = [
        f"--{gcloud}={getattr(options, name)}" for name, gcloud in _GCLOUD.items() if getattr(options, name) is not None
    ]
    if options.use_public_ips is False:
        found.append("--disable-public-ips")
    found.append(f"--additional-user-labels={gcloud_list(dataflow_options.label_pairs(options.labels))}")
    if experiments := given_experiments(options):
        found.append(f"--additional-experiments={gcloud_list(experiments)}")
    if rest := other_options(beam):
        found.append(f"--additional-pipeline-options={gcloud_list(rest)}")
    return found


def given_experiments(options: argparse.Namespace) -> list[str]:
    """Return the experiments that the user gave."""
    return [name for name in options.experiments if name != dataflow_options.ONE_PROCESS]


def other_options(beam: Sequence[str]) -> list[str]:
    """Return the Beam options without a gcloud flag, as ``name=value``."""
    rest = [argument.removeprefix("--") for argument in beam if _is_other(argument)]
    return [argument if "=" in argument else f"{argument}=true" for argument in rest]


def _is_other(argument: str) -> bool:
    # The job in the template adds its defaults itself.
    return argument.removeprefix("--").partition("=")[0] not in _HANDLED and argument not in dataflow_options.ADDED


def gcloud_list(parts: Sequence[str]) -> str:
    """Return a list in gcloud's syntax, with a separator that its parts do not contain.

    >>> gcloud_list(["a=1", "b=2"])
    'a=1,b=2'
    >>> gcloud_list(["lanes=a,b"])
    '^~^lanes=a,b'

    Raises:
        UserError: No separator is left.
    """
    if not any("," in part for part in parts) and not parts[0].startswith("^"):
        return ",".join(parts)
    separator = next((sign for sign in _SEPARATORS if not any(sign in part for part in parts)), None)
    if separator is None:
        raise UserError(f"{parts[0][:60]}: gcloud needs one of {' '.join(_SEPARATORS)} that the value does not contain")
    return f"^{separator}^{separator.join(parts)}"

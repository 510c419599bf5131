"""Entry points of the container image: the launcher of the Flex Template, and commands with files in Cloud Storage.

One image serves the templates of all jobs; the parameter ``job`` selects the job, and is required except for
``classify``. The launcher passes the parameters and the options of the environment as ``--name=value``. Files among
them are in Cloud Storage and are downloaded first. With ``--template_location`` Beam writes the job to a file for the
launcher, and returns.

``python -m imagebeam.pipeline.cli.flex_template COMMAND …`` runs any command after downloading its files.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from imagebeam.pipeline.cli import main as cli
from imagebeam.pipeline.console.text import printable
from imagebeam.pipeline.dataflow.template_metadata import (
    FILES,
    GIVEN_BY_THE_LAUNCHER,
    NO_PARAMETERS,
    check_value,
    default_of,
    find_job,
    is_path,
    parameters_of,
)
from imagebeam.pipeline.run.embed_settings import DEFAULT_JOB, Job
from imagebeam.transforms.core.errors import ImagebeamError, UserError

#: Reads a ``gs://`` object; None if it does not exist.
Fetch = Callable[[str], bytes | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job of a template.

    Args:
        argv: Arguments of the launcher; those of the process when None.

    Returns:
        The exit code of the job's command: 2 for an invalid parameter, before anything is staged.
    """
    return _run(sys.argv[1:] if argv is None else argv, job_arguments)


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run a command whose files are in Cloud Storage, such as ``classify --task=gs://…``.

    Args:
        argv: The command and its arguments; those of the process when None.

    Returns:
        The exit code of the command; 2 if a file does not exist.
    """
    return _run(sys.argv[1:] if argv is None else argv, command_arguments)


def job_arguments(given: Sequence[str], directory: Path, fetch: Fetch) -> list[str]:
    """Return the arguments of ``imagebeam`` for the arguments of the launcher.

    Empty parameters are dropped, because forms send all their fields. For the same reason a parameter that has its
    default value does not override the file ``--config``.

    Args:
        given: Arguments ``--name=value``.
        directory: Directory for downloaded files.
        fetch: Reads from Cloud Storage.

    Raises:
        UserError: The job is unknown, a parameter is not allowed in templates, or a file does not exist.
    """
    jobs = [argument.removeprefix("--job=") for argument in given if argument.startswith("--job=")]
    job = find_job(jobs[-1] if jobs else DEFAULT_JOB)
    defaults = {flag.name: default_of(flag) for flag in parameters_of(job).values()}
    arguments = [job.name, "--runner=DataflowRunner"]
    has_file = any(argument.startswith("--config=gs://") for argument in given)
    for argument in given:
        written, equals, text = argument.removeprefix("--").partition("=")
        name = written.replace("-", "_")
        _check(job, name, text)
        if name == "job" or (has_file and text and text == defaults.get(name)):
            continue
        if name in FILES and text.strip() and (name != "task" or is_path(text)):
            arguments.append(f"--{name}={_download(name, text, directory, fetch)}")
        elif text.strip() or not equals:
            arguments.append(argument)
    return arguments


def command_arguments(given: Sequence[str], directory: Path, fetch: Fetch) -> list[str]:
    """Return the arguments of a command with its files in Cloud Storage replaced by downloaded copies.

    Args:
        given: The command and its arguments.
        directory: Directory for downloaded files.
        fetch: Reads from Cloud Storage.

    Raises:
        UserError: A file does not exist.
    """
    arguments = []
    for argument in given:
        written, _, text = argument.removeprefix("--").partition("=")
        name = written.replace("-", "_")
        is_file = argument.startswith("--") and name in FILES and text.startswith("gs://")
        arguments.append(f"--{name}={_download(name, text, directory, fetch)}" if is_file else argument)
    return arguments


def _run(given: Sequence[str], resolve: Callable[[Sequence[str], Path, Fetch], list[str]]) -> int:
    with tempfile.TemporaryDirectory() as directory:
        try:
            arguments = resolve(given, Path(directory), _fetch)
        except ImagebeamError as error:
            sys.stderr.write(f"imagebeam: {printable(str(error))}\n")
            return error.exit_code
        return cli.main(arguments)


def _check(job: Job, name: str, text: str) -> None:
    check_value(name, text)
    if name == "runner" and text not in {"", "DataflowRunner"}:
        raise UserError(f"--runner={text}: a template always runs on Dataflow; leave the parameter out")
    if name in NO_PARAMETERS.keys() & job.flags.keys() - GIVEN_BY_THE_LAUNCHER:
        raise UserError(f"--{name} is not a parameter of this template: {NO_PARAMETERS[name]}")


def _download(name: str, uri: str, directory: Path, fetch: Fetch) -> str:
    if not uri.startswith("gs://"):
        raise UserError(
            f"--{name}={uri}: the launcher of the template cannot read it; copy the file to gs://bucket/path"
        )
    data = fetch(uri)
    if data is None:
        raise UserError(f"--{name}={uri}: object not found")
    # The suffix distinguishes the file of a task from its name.
    path = directory / f"{name}{Path(uri).suffix}"
    path.write_bytes(data)
    return str(path)


def _fetch(uri: str) -> bytes | None:
    from imagebeam.pipeline.run import dataflow_staging

    return dataflow_staging.read(uri)


if __name__ == "__main__":
    sys.exit(run_command())

"""What the launcher of a Flex Template runs: a job on Dataflow, from parameters that are all text.

One image serves the templates of all jobs. A template cannot tell its image which one it is but by a parameter:
``job``, which is required wherever it is not ``classify``.

The launcher gives the parameters and the options of the environment as ``--name=value``. Files among them are in
Cloud Storage; they are fetched first. With ``--template_location`` Beam writes the job where the launcher finds it,
and returns.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from imagebeam.pipeline.cli import main as cli
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

#: Gives what is stored at a ``gs://`` place; None when nothing is.
Fetch = Callable[[str], bytes | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the job of a template.

    Args:
        argv: What the launcher gives; the arguments of the process when None.

    Returns:
        The exit code of the job's command: 2 for a bad parameter, before anything is staged.
    """
    given = sys.argv[1:] if argv is None else argv
    with tempfile.TemporaryDirectory() as directory:
        try:
            command = prepared(given, Path(directory), _fetch)
        except ImagebeamError as error:
            sys.stderr.write(f"imagebeam: {error}\n")
            return error.exit_code
        return cli.main(command)


def prepared(given: Sequence[str], directory: Path, fetch: Fetch) -> list[str]:
    """The arguments of ``imagebeam``, from those of the launcher.

    A parameter that was left empty in a form is none. Nor does one override the file ``--config`` by its default:
    forms send all that they show. Files are fetched into ``directory``.

    Args:
        given: ``--name=value`` each.
        directory: Where fetched files go.
        fetch: Reads from Cloud Storage.

    Raises:
        UserError: No such job, a parameter that templates do not have, or a file that is not there.
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
            arguments.append(f"--{name}={_fetched(name, text, directory, fetch)}")
        elif text.strip() or not equals:
            arguments.append(argument)
    return arguments


def fetched(given: Sequence[str], directory: Path) -> list[str]:
    """Arguments of any command, with the files that they name in Cloud Storage fetched into ``directory``.

    Raises:
        UserError: A file is not there.
    """
    arguments = []
    for argument in given:
        written, _, text = argument.removeprefix("--").partition("=")
        name = written.replace("-", "_")
        is_file = argument.startswith("--") and name in FILES and text.startswith("gs://")
        arguments.append(f"--{name}={_fetched(name, text, directory, _fetch)}" if is_file else argument)
    return arguments


def _check(job: Job, name: str, text: str) -> None:
    check_value(name, text)
    if name == "runner" and text not in {"", "DataflowRunner"}:
        raise UserError(f"--runner={text}: a template always runs on Dataflow; leave the parameter out")
    if name in NO_PARAMETERS.keys() & job.flags.keys() - GIVEN_BY_THE_LAUNCHER:
        raise UserError(f"--{name} is not a parameter of this template: {NO_PARAMETERS[name]}")


def _fetched(name: str, place: str, directory: Path, fetch: Fetch) -> str:
    if not place.startswith("gs://"):
        raise UserError(
            f"--{name}={place}: the launcher of the template cannot see it; give a file as gs://bucket/path"
        )
    data = fetch(place)
    if data is None:
        raise UserError(f"--{name}={place}: no such object")
    # The ending stays: it tells a task's file from its name.
    path = directory / f"{name}{Path(place).suffix}"
    path.write_bytes(data)
    return str(path)


def _fetch(place: str) -> bytes | None:
    from imagebeam.pipeline.run import dataflow_staging

    return dataflow_staging.read(place)

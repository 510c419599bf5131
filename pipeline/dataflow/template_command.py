"""``imagebeam template``: builds a Flex Template, and starts jobs from it, with gcloud."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from imagebeam.pipeline.console import help as help_text
from imagebeam.pipeline.dataflow import template_launch, template_metadata
from imagebeam.pipeline.dataflow.template_metadata import TemplateJob
from imagebeam.pipeline.flags import parser as flag_parser
from imagebeam.pipeline.flags.classify import PROJECT, Flag, Group, Kind, by_name
from imagebeam.pipeline.flags.layers import read_flags
from imagebeam.transforms.core.errors import SystemicError, UserError
from imagebeam.transforms.core.strict_yaml import suggestion

# fmt: off
TEMPLATE = Flag(
    "template", Kind.TEXT, "Where the template is, or will be.",
    Group.RUN, example="gs://my-bucket/templates/classify.json", in_file=False,
)
IMAGE = Flag(
    "image", Kind.TEXT, "Name of the image that is built, with a tag of its own.",
    Group.RUN, example="europe-west6-docker.pkg.dev/my-project/images/imagebeam:2026-11-21", in_file=False,
)
REUSE_IMAGE = Flag(
    "reuse_image", Kind.BOOLEAN, "The image is there already: write the template only. One image serves all jobs.",
    Group.RUN, default=False, example="true", in_file=False,
)
DRY_RUN = Flag(
    "dry_run", Kind.BOOLEAN, "Print the gcloud commands instead of running them.",
    Group.RUN, default=False, example="true", in_file=False,
)
# fmt: on

_BUILD: Final = (IMAGE, TEMPLATE, PROJECT, REUSE_IMAGE, DRY_RUN)
_LAUNCH: Final = (TEMPLATE, DRY_RUN)
_VERBS: Final = ("build", "launch", "metadata")


def main(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> int:
    """Runs ``imagebeam template build|launch|metadata``.

    Args:
        argv: Arguments after ``template``.
        cwd: Directory that relative paths start from.
        environ: The environment.

    Returns:
        0; failures are exceptions.

    Raises:
        UserError: A bad flag or parameter, no gcloud, or no checkout.
        SystemicError: gcloud failed; it said why.
    """
    if not argv or any(argument in {"--help", "-h"} for argument in argv):
        sys.stdout.write("\n".join(_help(help_text.width())) + "\n")
        return 0
    verb, *rest = argv
    if verb not in _VERBS:
        hint = suggestion(verb, _VERBS) or f"; write imagebeam template {'|'.join(_VERBS)}"
        raise UserError(f"imagebeam template does not know {verb}{hint}")
    words = [word for word in rest[:1] if not word.startswith("-")]
    job = template_metadata.find_job(words[0] if words else template_metadata.DEFAULT_JOB)
    line = rest[len(words) :]
    if verb == "metadata":
        flag_parser.read(line, {}, command="imagebeam template metadata", beam=False)
        sys.stdout.write(template_metadata.text(job))
    elif verb == "build":
        _build(line, job, cwd, environ)
    else:
        _launch(line, job, cwd, environ)
    return 0


def _build(argv: Sequence[str], job: TemplateJob, cwd: Path, environ: Mapping[str, str]) -> None:
    said = read_flags(argv, _BUILD, command="imagebeam template build", cwd=cwd, environ=environ, beam=False)
    values = said.values
    for flag in (IMAGE, TEMPLATE):
        if values[flag.name] is None:
            raise UserError(f"imagebeam template build needs --{flag.name}, such as --{flag.name}={flag.example}")
    commands = template_launch.build_commands(
        job,
        _checkout(cwd),
        image=values["image"],
        template=values["template"],
        project=values["project"],
        reuse=values["reuse_image"],
    )
    _run(commands, dry_run=values["dry_run"])


def _launch(argv: Sequence[str], job: TemplateJob, cwd: Path, environ: Mapping[str, str]) -> None:
    given = flag_parser.read(argv, by_name((*job.flags, *_LAUNCH)), command="imagebeam template launch")
    values = dict(given.values)
    template, dry_run = values.pop("template", None), values.pop("dry_run", False)
    if template is None:
        raise UserError(f"imagebeam template launch needs --template, such as --template={TEMPLATE.example}")
    start = template_launch.launch(
        job,
        flag_parser.Arguments(values, given.beam),
        template=template,
        cwd=cwd,
        environ=environ,
    )
    if not start.parameters.keys() & {"yes", "max_cost_usd"}:
        sys.stderr.write("note: without --yes or --max_cost_usd the job asks, and ends, when it would cost much\n")
    _run(start.commands, dry_run=dry_run)
    if not dry_run:
        sys.stderr.write(f"started; the summary will be in {start.summary}\n")
        if start.parameters.get("lane") == "batch":
            place = start.parameters["work_dir"]
            sys.stderr.write(
                f"it ends when batch jobs exist; `imagebeam batch collect --work_dir={place}` does the rest\n"
            )


def _checkout(cwd: Path) -> Path:
    """The directory that the image is built from."""
    for root in (cwd, Path(__file__).parents[2]):
        if (root / "templates" / "Dockerfile").is_file() and (root / "requirements.lock").is_file():
            return root
    raise UserError("no templates/Dockerfile here: run imagebeam template build in a checkout of imagebeam")


def _run(commands: Sequence[Sequence[str]], *, dry_run: bool) -> None:
    if dry_run:
        sys.stdout.write("\n".join(shlex.join(command) for command in commands) + "\n")
        return
    program = shutil.which("gcloud")
    if program is None:
        raise UserError(
            "gcloud is not installed, or not on the PATH: see https://cloud.google.com/sdk/docs/install; --dry_run "
            "prints the commands"
        )
    for command in commands:
        sys.stderr.write(f"{shlex.join(command)}\n")
        sys.stderr.flush()
        done = subprocess.run([program, *command[1:]], env=os.environ, check=False)  # noqa: S603 - no shell
        if done.returncode:
            raise SystemicError(
                f"{' '.join(command[:4])} failed (exit code {done.returncode}); what gcloud said is above"
            )


def _help(columns: int) -> list[str]:
    return [
        "imagebeam template: a Flex Template of Dataflow, and jobs from it, with gcloud",
        "",
        "Usage: imagebeam template build [JOB] --image=NAME:TAG --template=gs://… [--reuse_image] [--dry_run]",
        "       imagebeam template launch [JOB] --template=gs://… --region=REGION --task=NAME … [--dry_run]",
        "       imagebeam template metadata [JOB]      (what the console asks for, as JSON)",
        "",
        f"JOB is {' or '.join(template_metadata.JOBS)}; without it, {template_metadata.DEFAULT_JOB}.",
        "",
        "Examples:",
        f"  imagebeam template build --image={IMAGE.example} --template={TEMPLATE.example}",
        f"  imagebeam template launch --template={TEMPLATE.example} --region=europe-west6 --task=utility_pole",
        *help_text.flags_help((IMAGE, TEMPLATE, PROJECT, REUSE_IMAGE, DRY_RUN), columns),
        "",
        "launch takes all flags of the job's command, also from imagebeam.yaml, and options of Beam. It checks them",
        "before anything is started, and copies files of this machine below --work_dir, where the job reads them.",
    ]

"""``imagebeam template``: build a Flex Template, and launch jobs from it, with gcloud."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.dataflow import template_launch, template_metadata
from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.command import CommandGroup, job_group
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting, pick
from imagebeam.pipeline.run.embed_settings import JOB_FLAGS, JOBS
from imagebeam.pipeline.run.settings import merge_layers
from imagebeam.transforms.core.errors import SystemicError, UserError


# fmt: off
class LaunchFlags(Settings, group=Group.TEMPLATE, in_file=False):
    """Settings of ``imagebeam template launch``."""

    template: Annotated[str | None, Setting(
        "Cloud Storage path of the template.", metavar="PATH", example="gs://my-bucket/templates/classify.json")] = None
    dry_run: Annotated[bool, Setting(
        "Print the gcloud commands instead of running them.", example="true")] = False


class BuildFlags(LaunchFlags, group=Group.TEMPLATE, in_file=False):
    """Settings of ``imagebeam template build``."""

    image: Annotated[str | None, Setting(
        "Name of the container image to build, with a unique tag.",
        metavar="IMAGE", example="europe-west6-docker.pkg.dev/my-project/images/imagebeam:2026-11-21")] = None
    reuse_image: Annotated[bool, Setting(
        "Write only the template, for an existing image. All jobs can use the same image.", example="true")] = False
# fmt: on


LAUNCH: Final[Flags] = flags_of(LaunchFlags)
BUILD: Final[Flags] = {**flags_of(BuildFlags), **pick(CLASSIFY, "project", "config")}
#: The command reads no settings of its job.
_NO_FLAGS: Final[Mapping[str, Flags]] = {name: {} for name in JOBS}


def _metadata(job: str, _: FlagValues) -> int:
    Console().print(template_metadata.text(JOBS[job]).rstrip("\n"))
    return 0


def _build(job: str, line: FlagValues) -> int:
    found = merge_layers(line, BUILD, cwd=Path.cwd())
    for flag in (BUILD["image"], BUILD["template"]):
        if found.get(flag) is None:
            raise UserError(f"imagebeam template build needs --{flag.name}, such as --{flag.name}={flag.example}")
    commands = template_launch.build_commands(
        JOBS[job],
        _checkout(Path.cwd()),
        image=found.get(BUILD["image"]),
        template=found.get(BUILD["template"]),
        project=found.get(BUILD["project"]) or os.environ.get("GOOGLE_CLOUD_PROJECT"),
        reuse=found.get(BUILD["reuse_image"]),
    )
    return _run(commands, dry_run=found.get(BUILD["dry_run"]))


def _launch(job: str, line: FlagValues) -> int:
    own, rest = line.split(LAUNCH)
    template, dry_run = own.get(LAUNCH["template"]), own.get(LAUNCH["dry_run"])
    if template is None:
        raise UserError(f"imagebeam template launch needs --template, such as --template={LAUNCH['template'].example}")
    launch = template_launch.build_launch(JOBS[job], rest, template=template, cwd=Path.cwd(), environ=os.environ)
    if not launch.parameters.keys() & {"yes", "max_cost_usd"}:
        Console().warn("without --yes or --max_cost_usd the job stops if its estimated cost is above the threshold")
    _run(launch.commands, dry_run=dry_run)
    if not dry_run:
        Console().status(f"launched; the summary will be in {launch.summary}")
        if launch.parameters.get("lane") == "batch":
            work_dir = launch.parameters["work_dir"]
            Console().status(f"once batch jobs exist, run `imagebeam batch collect --work_dir={work_dir}`")
    return 0


def _checkout(cwd: Path) -> Path:
    """Return the directory that the image is built from."""
    for root in (cwd, Path(__file__).resolve().parents[2]):
        if (root / "templates" / "Dockerfile").is_file() and (root / "requirements.lock").is_file():
            return root
    raise UserError("no templates/Dockerfile here: run imagebeam template build in a checkout of imagebeam")


def _run(commands: Sequence[Sequence[str]], *, dry_run: bool) -> int:
    if dry_run:
        Console().print(*(shlex.join(command) for command in commands))
        return 0
    program = shutil.which("gcloud")
    if program is None:
        raise UserError(
            "gcloud is not installed, or not on the PATH: see https://cloud.google.com/sdk/docs/install; --dry_run "
            "prints the commands"
        )
    for command in commands:
        Console().status(shlex.join(command))
        done = subprocess.run([program, *command[1:]], env=os.environ, check=False)  # noqa: S603 - no shell
        if done.returncode:
            raise SystemicError(
                f"{' '.join(command[:4])} failed (exit code {done.returncode}); see the output of gcloud above"
            )
    return 0


command: Final = CommandGroup(
    "template",
    {
        "build": job_group(
            "build",
            _build,
            _NO_FLAGS,
            BUILD,
            summary="Build the container image and the template.",
            examples=("imagebeam template build --image=IMAGE:TAG --template=gs://…/classify.json",),
        ),
        "launch": job_group(
            "launch",
            _launch,
            JOB_FLAGS,
            LAUNCH,
            summary="Launch a job from a template.",
            examples=("imagebeam template launch --template=gs://… --region=REGION --task=NAME",),
            notes="Also accepts all flags of imagebeam classify or embed, which imagebeam.yaml can set, and Beam "
            "options. They are validated before the launch. Local files are copied to --work_dir for the job.",
        ),
        "metadata": job_group(
            "metadata",
            _metadata,
            _NO_FLAGS,
            {},
            summary="Print the parameters of the template as JSON.",
        ),
    },
    summary="Build a Dataflow Flex Template and launch jobs from it, with gcloud.",
    usage=f"build|launch|metadata [{'|'.join(JOBS)}] [--flag=value …]",
    shown=BUILD,
)

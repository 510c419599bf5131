"""``imagebeam schedule``: print the gcloud commands that schedule a recurring run. It runs none of them."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.dataflow import schedule, template_launch
from imagebeam.pipeline.dataflow.template_launch import LaunchSpec
from imagebeam.pipeline.flags.command import CommandGroup, job_group
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.pipeline.run.embed_settings import JOB_FLAGS, JOBS
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane

_ACCOUNT: Final = "imagebeam-scheduler"
_WORKERS: Final = "imagebeam-worker"
_CRON: Final = r"(?:[0-9A-Za-z*/,-]+ ){4}[0-9A-Za-z*/,-]+"


# fmt: off
class ScheduleFlags(Settings, group=Group.SCHEDULE, in_file=False):
    """Settings of every ``imagebeam schedule`` command."""

    schedule: Annotated[str, Setting(
        "When to run, in cron format: minute, hour, day of month, month, day of week.",
        metavar="CRON", pattern=_CRON, form="five fields such as '0 3 * * *'", example="30 2 * * MON-FRI"
    )] = "0 3 * * *"
    time_zone: Annotated[str, Setting(
        "Time zone of the schedule.", metavar="ZONE", pattern=r"[A-Za-z]+(?:/[A-Za-z0-9_+-]+)*",
        form="a name such as Europe/Zurich", example="Europe/Zurich")] = "Etc/UTC"
    name: Annotated[str | None, Setting(
        "Name of the created resources.", metavar="NAME", pattern=r"[a-z](?:[-a-z0-9]{0,38}[a-z0-9])?",
        form="at most 40 lowercase letters, digits and -, starting with a letter",
        example="poles-nightly", computed="imagebeam-TASK")] = None
    scheduler_account: Annotated[str | None, Setting(
        "Service account that the schedule uses.", metavar="ACCOUNT", pattern=r"[^@\s]+@[^@\s]+\.[a-z]+",
        form="an account such as scheduler@my-project.iam.gserviceaccount.com",
        example="scheduler@my-project.iam.gserviceaccount.com", computed=f"{_ACCOUNT}, which is created")] = None
    scheduler_location: Annotated[str | None, Setting(
        "Region of Cloud Scheduler, if --region does not offer it.", metavar="REGION",
        pattern=r"[a-z]+-[a-z]+[0-9]+", form="a region such as europe-west1",
        example="europe-west1", computed="--region")] = None


class DailyFlags(ScheduleFlags, group=Group.SCHEDULE, in_file=False):
    """Settings of ``imagebeam schedule daily``."""

    template: Annotated[str | None, Setting(
        "Cloud Storage path of the template.", metavar="PATH", example="gs://my-bucket/templates/classify.json")] = None


class VmFlags(ScheduleFlags, group=Group.SCHEDULE, in_file=False):
    """Settings of ``imagebeam schedule vm``."""

    image: Annotated[str | None, Setting(
        "Container image, as built by imagebeam template build.",
        metavar="IMAGE", example="europe-west6-docker.pkg.dev/my-project/images/imagebeam:0.1.0")] = None


class BatchFlags(VmFlags, group=Group.SCHEDULE, in_file=False):
    """Settings of ``imagebeam schedule batch``."""

    collect_schedule: Annotated[str, Setting(
        "When to collect the jobs of open batch runs, in cron format.",
        metavar="CRON", pattern=_CRON, form="five fields such as '*/15 * * * *'", example="0 * * * *"
    )] = "*/15 * * * *"
# fmt: on


FLAGS: Final[Mapping[str, Flags]] = {
    "daily": flags_of(DailyFlags),
    "batch": flags_of(BatchFlags),
    "vm": flags_of(VmFlags),
}


def run(verb: str, job: str, line: FlagValues) -> int:
    """Print the commands of ``imagebeam schedule daily|batch|vm``.

    Raises:
        UserError: A flag is invalid, or the run would reject it.
    """
    own, of_run = line.split(FLAGS[verb])
    values = {name: own.get(flag) for name, flag in FLAGS[verb].items()}
    _check(verb, values, of_run.given)
    name = values["name"] or _name(str(of_run.given.get("task", job)))
    lane = {"lane": "batch"} if verb == "batch" else {}
    spec = template_launch.check_launch(
        JOBS[job],
        FlagValues({**of_run.given, **lane, "run_id": name}, of_run.beam),
        cwd=Path.cwd(),
        environ=os.environ,
        of_template=verb == "daily",
    )
    _check_start(spec)
    when = _when(values, name, spec)
    commands = _commands(verb, job, spec, when, values)
    console = Console()
    console.print(*(shlex.join(command) for command in commands))
    for note in _notes(verb, spec, when):
        console.status(f"note: {note}")
    return 0


def _commands(
    verb: str, job: str, spec: LaunchSpec, when: schedule.Schedule, values: Mapping[str, Any]
) -> list[list[str]]:
    if verb == "daily":
        return schedule.daily_commands(spec, when, template=values["template"])
    if verb == "vm":
        return schedule.vm_commands(spec, when, job=job, image=values["image"])
    return schedule.batch_commands(
        spec, when, job=job, image=values["image"], collect_schedule=values["collect_schedule"]
    )


def _check(verb: str, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    needed = FLAGS[verb]["template" if verb == "daily" else "image"]
    if values[needed.name] is None:
        raise UserError(f"imagebeam schedule {verb} needs --{needed.name}, such as --{needed.name}={needed.example}")
    if verb == "daily":
        template_launch.check_template(values["template"])
    else:
        template_launch.check_image(values["image"], built=True)
    if "run_id" in given:
        raise UserError(f"--run_id={given['run_id']}: every run of a schedule creates its own run id; leave it out")
    if verb == "batch" and given.get("lane", "batch") != "batch":
        raise UserError(
            f"--lane={given['lane']}: imagebeam schedule batch creates batch jobs; use daily or vm for another lane"
        )


def _check_start(spec: LaunchSpec) -> None:
    if not spec.parameters.keys() & {"yes", "max_cost_usd"}:
        raise UserError("a scheduled run cannot ask for confirmation: set a budget such as --max_cost_usd=25, or --yes")
    if spec.options.service_account_email is None:
        project = spec.settings.project
        raise UserError(
            "a scheduled run needs its own service account: set --service_account_email="
            f"{_WORKERS}@{project}.iam.gserviceaccount.com; docs/security.md lists its roles"
        )


def _when(values: Mapping[str, Any], name: str, spec: LaunchSpec) -> schedule.Schedule:
    account = values["scheduler_account"]
    return schedule.Schedule(
        name=name,
        cron=values["schedule"],
        time_zone=values["time_zone"],
        location=values["scheduler_location"] or str(spec.options.region),
        account=account or f"{_ACCOUNT}@{spec.settings.project}.iam.gserviceaccount.com",
        create_account=account is None,
    )


def _name(task: str) -> str:
    """Return a name for a task, given by name or by file.

    >>> _name("gs://my-bucket/tasks/utility_pole.yaml")
    'imagebeam-utility-pole'
    """
    stem = re.sub(r"\.ya?ml$", "", task.rpartition("/")[2].lower())
    return f"imagebeam-{re.sub(r'[^a-z0-9]+', '-', stem).strip('-')}"[:40].rstrip("-")


def _notes(verb: str, spec: LaunchSpec, when: schedule.Schedule) -> list[str]:
    notes = ["nothing was run: review the commands above, then paste them"]
    if when.create_account:
        notes.append(f"if {when.account} already exists, the command that creates it fails, which is harmless")
    if verb == "vm":
        notes.append("the VM runs once as soon as it is created")
    work_dir = spec.settings.work_dir
    if verb == "daily" and spec.settings.lane == Lane.BATCH:
        notes.append(f"each run creates batch jobs; collect them with imagebeam batch collect --work_dir={work_dir}")
    notes.append(
        f"to test it now: gcloud scheduler jobs run {when.name} --location={when.location} "
        f"--project={spec.settings.project}; summary: {work_dir}"
    )
    return notes


def _group(verb: str, summary: str, example: str) -> CommandGroup:
    return job_group(
        verb,
        functools.partial(run, verb),
        JOB_FLAGS,
        FLAGS[verb],
        summary=summary,
        examples=(example,),
        notes="Also accepts all flags of imagebeam classify or embed, which imagebeam.yaml can set, and Beam options. "
        "They are validated as by the run. A run processes new units, retries, and what --reprocess adds.",
    )


command: Final = CommandGroup(
    "schedule",
    {
        "daily": _group(
            "daily",
            "Schedule a job on Dataflow, from a template.",
            "imagebeam schedule daily --template=gs://… --region=REGION --task=NAME …",
        ),
        "batch": _group(
            "batch",
            "Schedule batch jobs, created and collected by Cloud Run jobs.",
            "imagebeam schedule batch --image=IMAGE:TAG --region=REGION --task=NAME …",
        ),
        "vm": _group(
            "vm",
            "Schedule a run on one small VM.",
            "imagebeam schedule vm --image=IMAGE:TAG --region=REGION --task=NAME …",
        ),
    },
    summary="Print the gcloud commands that schedule a recurring run, without running them.",
    usage=f"daily|batch|vm [{'|'.join(JOBS)}] [--flag=value …]",
    examples=(
        "imagebeam schedule daily --template=gs://my-bucket/classify.json \\",
        "    --region=europe-west6 --task=utility_pole --max_cost_usd=25 \\",
        "    --service_account_email=worker@my-project.iam.gserviceaccount.com",
    ),
    shown={**FLAGS["daily"], **FLAGS["batch"]},
)

"""``imagebeam schedule``: print the gcloud commands that schedule a recurring run. It runs none of them."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from imagebeam.pipeline.dataflow import schedule, template_launch
from imagebeam.pipeline.dataflow.template_launch import Start
from imagebeam.pipeline.flags.command import CommandGroup, job_group
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.pipeline.run.embed_settings import JOBS
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
        form="at most 40 lower-case letters, digits and -, beginning with a letter",
        example="poles-nightly", computed="imagebeam- and the task")] = None
    scheduler_account: Annotated[str | None, Setting(
        "Service account that the schedule uses.", metavar="ACCOUNT", pattern=r"[^@\s]+@[^@\s]+\.[a-z]+",
        form="an account such as scheduler@my-project.iam.gserviceaccount.com",
        example="scheduler@my-project.iam.gserviceaccount.com", computed=f"{_ACCOUNT}, which is created")] = None
    scheduler_location: Annotated[str | None, Setting(
        "Region of Cloud Scheduler, which not every region has.", metavar="REGION",
        pattern=r"[a-z]+-[a-z]+[0-9]+", form="a region such as europe-west1",
        example="europe-west1", computed="--region")] = None


class DailyFlags(ScheduleFlags, group=Group.SCHEDULE, in_file=False):
    """Settings of ``imagebeam schedule daily``."""

    template: Annotated[str | None, Setting(
        "Path of the template.", metavar="PATH", example="gs://my-bucket/templates/classify.json")] = None


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
        UserError: An invalid flag, or something that the run would refuse.
    """
    own, of_run = line.split(FLAGS[verb])
    values = {name: own.get(flag) for name, flag in FLAGS[verb].items()}
    _check(verb, values, of_run.given)
    name = values["name"] or _name(str(of_run.given.get("task", job)))
    lane = {"lane": "batch"} if verb == "batch" else {}
    start = template_launch.checked(
        JOBS[job],
        FlagValues({**of_run.given, **lane, "run_id": name}, of_run.beam),
        cwd=Path.cwd(),
        environ=os.environ,
        of_template=verb == "daily",
    )
    _check_start(start)
    when = _when(values, name, start)
    commands = _commands(verb, job, start, when, values)
    sys.stdout.write("\n".join(shlex.join(command) for command in commands) + "\n")
    _note(verb, start, when)
    return 0


def _commands(verb: str, job: str, start: Start, when: schedule.When, values: Mapping[str, Any]) -> list[list[str]]:
    if verb == "daily":
        return schedule.daily(start, when, template=values["template"])
    if verb == "vm":
        return schedule.vm(start, when, job=job, image=values["image"])
    return schedule.batch(start, when, job=job, image=values["image"], collect_schedule=values["collect_schedule"])


def _check(verb: str, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    needed = FLAGS[verb]["template" if verb == "daily" else "image"]
    if values[needed.name] is None:
        raise UserError(f"imagebeam schedule {verb} needs --{needed.name}, such as --{needed.name}={needed.example}")
    if verb == "daily":
        template_launch.check_template(values["template"])
    else:
        template_launch.check_image(values["image"], built=True)
    if "run_id" in given:
        raise UserError(f"--run_id={given['run_id']}: every run of a schedule makes a name of its own; leave it out")
    if verb == "batch" and given.get("lane", "batch") != "batch":
        raise UserError(f"--lane={given['lane']}: imagebeam schedule batch makes batch jobs; daily and vm take a lane")


def _check_start(start: Start) -> None:
    if not start.parameters.keys() & {"yes", "max_cost_usd"}:
        raise UserError("nobody is there to say yes to a scheduled run: give --max_cost_usd=25, its cap, or --yes")
    if start.options.service_account_email is None:
        project = start.settings.project
        raise UserError(
            "a scheduled run needs an account of its own: give --service_account_email="
            f"{_WORKERS}@{project}.iam.gserviceaccount.com; docs/dataflow.md has its roles"
        )


def _when(values: Mapping[str, Any], name: str, start: Start) -> schedule.When:
    account = values["scheduler_account"]
    return schedule.When(
        name=name,
        schedule=values["schedule"],
        time_zone=values["time_zone"],
        location=values["scheduler_location"] or str(start.options.region),
        account=account or f"{_ACCOUNT}@{start.settings.project}.iam.gserviceaccount.com",
        make_account=account is None,
    )


def _name(task: str) -> str:
    """A name from a task, or from the file that it is in.

    >>> _name("gs://my-bucket/tasks/utility_pole.yaml")
    'imagebeam-utility-pole'
    """
    stem = re.sub(r"\.ya?ml$", "", task.rpartition("/")[2].lower())
    return f"imagebeam-{re.sub(r'[^a-z0-9]+', '-', stem).strip('-')}"[:40].rstrip("-")


def _note(verb: str, start: Start, when: schedule.When) -> None:
    notes = ["note: nothing was run: look at the commands above, then paste them"]
    if when.make_account:
        notes.append(f"note: if {when.account} is there already, the command that makes it fails, which is no harm")
    if verb == "vm":
        notes.append("note: the VM runs once as soon as it is made")
    where = start.settings.work_dir
    if verb == "daily" and start.settings.lane == Lane.BATCH:
        notes.append(f"note: it makes batch jobs; imagebeam batch collect --work_dir={where} must look after them")
    notes.append(
        f"note: to try it now: gcloud scheduler jobs run {when.name} --location={when.location} "
        f"--project={start.settings.project}; books: {where}"
    )
    sys.stderr.write("\n".join(notes) + "\n")


def _group(verb: str, summary: str, example: str) -> CommandGroup:
    return job_group(
        f"imagebeam schedule {verb}",
        functools.partial(run, verb),
        {name: job.flags for name, job in JOBS.items()},
        own=FLAGS[verb],
        summary=summary,
        examples=(example,),
        notes="All flags of the job's command are accepted, also from imagebeam.yaml, and Beam options. They are "
        "checked as in the run. A run processes new units and retries, and what --reprocess adds.",
    )


command: Final = CommandGroup(
    "imagebeam schedule",
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
    summary="Print the gcloud commands that schedule a recurring run. Nothing is run.",
    usage=f"daily|batch|vm [{'|'.join(JOBS)}] [--flag=value …]",
    examples=(
        "imagebeam schedule daily --template=gs://my-bucket/classify.json \\",
        "    --region=europe-west6 --task=utility_pole --max_cost_usd=25 \\",
        "    --service_account_email=worker@my-project.iam.gserviceaccount.com",
    ),
    shown={**FLAGS["daily"], **FLAGS["batch"]},
)

"""``imagebeam schedule``: prints the gcloud commands that make a run come back. It runs none of them."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from imagebeam.pipeline.console import help as help_text
from imagebeam.pipeline.dataflow import schedule, template_launch, template_metadata
from imagebeam.pipeline.dataflow.template_command import TEMPLATE
from imagebeam.pipeline.dataflow.template_launch import Start
from imagebeam.pipeline.flags import parser as flag_parser
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import DUE, Flag, by_name
from imagebeam.pipeline.flags.schedule import BATCH, COLLECT_SCHEDULE, DAILY, RUN_IMAGE, VM
from imagebeam.pipeline.flags.schedule import SCHEDULE as SCHEDULE_FLAG
from imagebeam.pipeline.flags.schedule import TIME_ZONE as TIME_ZONE_FLAG
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.core.strict_yaml import suggestion

_VERBS: Final[Mapping[str, tuple[Flag, ...]]] = {"daily": DAILY, "batch": BATCH, "vm": VM}
_ACCOUNT: Final = "imagebeam-scheduler"
_WORKERS: Final = "imagebeam-worker"


def main(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> int:
    """Runs ``imagebeam schedule daily|batch|vm``.

    Args:
        argv: Arguments after ``schedule``.
        cwd: Directory that relative paths start from; ``imagebeam.yaml`` is looked for here.
        environ: The environment.

    Returns:
        0; failures are exceptions.

    Raises:
        UserError: A bad flag, or something that the run would refuse.
    """
    if not argv or any(argument in {"--help", "-h"} for argument in argv):
        sys.stdout.write("\n".join(_help(help_text.width())) + "\n")
        return 0
    verb, *rest = argv
    if verb not in _VERBS:
        hint = suggestion(verb, _VERBS) or f"; write imagebeam schedule {'|'.join(_VERBS)}"
        raise UserError(f"imagebeam schedule does not know {verb}{hint}")
    words = [word for word in rest[:1] if not word.startswith("-")]
    job = template_metadata.find_job(words[0] if words else "classify")
    own = {flag.name: flag for flag in _VERBS[verb]}
    given = flag_parser.read(
        rest[len(words) :], by_name((*job.flags, *own.values())), command=f"imagebeam schedule {verb}"
    )
    values = {name: given.values.get(name, flag.default) for name, flag in own.items()}
    _check(verb, values, given.values)
    of_run = {name: value for name, value in given.values.items() if name not in own}
    if verb == "batch":
        of_run["lane"] = "batch"
    name = values["name"] or _name(str(given.values.get("task", job.name)))
    start = template_launch.checked(
        job,
        flag_parser.Arguments({**of_run, "run_id": name}, given.beam),
        cwd=cwd,
        environ=environ,
        of_template=verb == "daily",
    )
    # FlagValues although it is the default: what is scheduled shall not change when a default does.
    due = flag_values.to_text(DUE, DUE.default)
    start = dataclasses.replace(start, parameters={DUE.name: due, **start.parameters})
    _check_start(start)
    when = _when(values, name, start)
    commands = _commands(verb, job.name, start, when, values)
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
    needed = TEMPLATE if verb == "daily" else RUN_IMAGE
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


def _help(columns: int) -> list[str]:
    flags = (TEMPLATE, RUN_IMAGE, SCHEDULE_FLAG, TIME_ZONE_FLAG, *VM[3:], COLLECT_SCHEDULE)
    return [
        "imagebeam schedule: print the gcloud commands that make a run come back; nothing is run",
        "",
        "Usage: imagebeam schedule daily [JOB] --template=gs://… --region=REGION --task=NAME …   (on Dataflow)",
        "       imagebeam schedule batch [JOB] --image=NAME:TAG --region=REGION --task=NAME …    (batch jobs)",
        "       imagebeam schedule vm [JOB] --image=NAME:TAG --region=REGION --task=NAME …       (one small VM)",
        "",
        f"JOB is {' or '.join(template_metadata.JOBS)}; without it, classify.",
        "",
        "Example:",
        f"  imagebeam schedule daily --template={TEMPLATE.example} --region=europe-west6 --task=utility_pole",
        "    --service_account_email=workers@my-project.iam.gserviceaccount.com --max_cost_usd=25",
        *help_text.flags_help(flags, columns),
        "",
        "All flags of that command go, also from imagebeam.yaml, and options of Beam. They are checked as the",
        "run itself will. A run asks for what is new, and for what failed for a passing reason (--due=new,retry).",
    ]

"""The gcloud commands that make a run come back: every night on Dataflow, as batch jobs, or on one small VM.

Nothing here runs them. Cloud Scheduler sends one POST at a time of day; what it starts asks only for what is due.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from typing import Final

from imagebeam.pipeline.dataflow import template_request
from imagebeam.pipeline.dataflow.template_launch import Start, escaped
from imagebeam.pipeline.dataflow.template_metadata import FILES

#: Machine of the small VM: two cores for a short time, 4 GB.
MACHINE_TYPE: Final = "e2-medium"
#: Seconds that a task of a Cloud Run job may take: reading a table and writing its batch jobs; one look at them.
SUBMIT_S: Final = 6 * 3600
COLLECT_S: Final = 3600
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"


@dataclasses.dataclass(frozen=True, slots=True)
class When:
    """When a run comes back, and who starts it.

    Attributes:
        name: Name of what is made; the run's job on Dataflow has it too.
        schedule: Five fields, as cron writes them.
        time_zone: Time zone of the schedule.
        location: Region of Cloud Scheduler.
        account: Account that the schedule acts as.
        make_account: It is to be made.
    """

    name: str
    schedule: str
    time_zone: str
    location: str
    account: str
    make_account: bool


def daily(start: Start, when: When, *, template: str) -> list[list[str]]:
    """A job on Dataflow, started from its template.

    Args:
        start: What is started; its options name the account of the workers.
        when: When.
        template: ``gs://`` place of the template.
    """
    project, region = start.settings.project, str(start.options.region)
    body = template_request.body(start, template=template, job_name=when.name)
    return [
        *start.copying,
        *_prepared(start, when, "dataflow"),
        _grant(project, when, "roles/dataflow.admin"),
        _act_as(start, when),
        _scheduled(project, when, when.name, template_request.url(project, region), body),
    ]


def batch(start: Start, when: When, *, job: str, image: str, collect_schedule: str) -> list[list[str]]:
    """Two jobs of Cloud Run: one makes batch jobs of what is due, one looks after all that are open.

    Args:
        start: What is started, on lane batch.
        when: When batch jobs are made.
        job: The command that makes them.
        image: The image of both.
        collect_schedule: When they are looked after.
    """
    project, region = start.settings.project, str(start.options.region)
    submit = program(job, {**start.parameters, "no_wait": "true", "project": project})
    collect = program("batch", {"work_dir": start.settings.work_dir, "no_wait": "true"}, "collect")
    commands = [*start.copying, *_prepared(start, when, "run")]
    for name, line, seconds, schedule in (
        (when.name, submit, SUBMIT_S, when.schedule),
        (f"{when.name}-collect", collect, COLLECT_S, collect_schedule),
    ):
        commands += [
            [
                *("gcloud", "run", "jobs", "deploy", name, f"--image={image}"),
                *(f"--region={region}", f"--project={project}"),
                f"--service-account={start.options.service_account_email}",
                *(f"--command={line[0]}", f"--args={escaped(line[1:])}"),
                *("--cpu=2", "--memory=4Gi", "--max-retries=0", f"--task-timeout={seconds}s"),
            ],
            [
                *("gcloud", "run", "jobs", "add-iam-policy-binding", name, f"--region={region}"),
                *(f"--project={project}", f"--member=serviceAccount:{when.account}", "--role=roles/run.invoker"),
            ],
            _scheduled(
                project,
                dataclasses.replace(when, schedule=schedule),
                name,
                f"https://run.googleapis.com/v2/projects/{project}/locations/{region}/jobs/{name}:run",
                {},
            ),
        ]
    return commands


def vm(start: Start, when: When, *, job: str, image: str) -> list[list[str]]:
    """A small VM that is started, runs, and turns itself off: nothing but its disk costs while it is off.

    Args:
        start: What is started.
        when: When.
        job: The command that runs.
        image: What it runs in.
    """
    project, options = start.settings.project, start.options
    zone = options.worker_zone or f"{options.region}-b"
    line = program(job, {**start.parameters, "project": project})
    network = [f"--network={options.network}"] if options.network else []
    network += [f"--subnet={_subnet(options.subnetwork)}"] if options.subnetwork else []
    network += ["--no-address"] if options.use_public_ips is False else []
    here = [f"--zone={zone}", f"--project={project}"]
    return [
        *start.copying,
        *_prepared(start, when, "compute"),
        [
            *("gcloud", "compute", "instances", "create", when.name, *here),
            f"--machine-type={options.machine_type or MACHINE_TYPE}",
            *("--image-family=cos-stable", "--image-project=cos-cloud", "--boot-disk-size=20GB"),
            *(f"--service-account={options.service_account_email}", "--scopes=cloud-platform", *network),
            f"--metadata={escaped([f'startup-script={startup_script(line, image)}'])}",
        ],
        [
            *("gcloud", "compute", "instances", "add-iam-policy-binding", when.name, *here),
            *(f"--member=serviceAccount:{when.account}", "--role=roles/compute.instanceAdmin.v1"),
        ],
        _act_as(start, when),
        _scheduled(
            project,
            when,
            when.name,
            f"https://compute.googleapis.com/compute/v1/projects/{project}/zones/{zone}/instances/{when.name}/start",
            {},
        ),
    ]


def program(command: str, flags: dict[str, str], *words: str) -> list[str]:
    """A command line of imagebeam in its image, where files are fetched from Cloud Storage first."""
    fetched = any(flags.get(name, "").startswith("gs://") for name in FILES)
    called = ["python", "-m", "imagebeam.pipeline.cli.from_storage"] if fetched else ["imagebeam"]
    return [*called, command, *words, *(f"--{name}={flags[name]}" for name in sorted(flags))]


def startup_script(line: Sequence[str], image: str) -> str:
    """What the VM does whenever it starts: one run, and off. Its log goes to Cloud Logging."""
    registry = image.partition("/")[0]
    run = ["docker", "run", "--rm", "--log-driver=gcplogs", f"--entrypoint={line[0]}", image, *line[1:]]
    return "\n".join(
        (
            "#!/bin/bash",
            "export HOME=/home/imagebeam",
            'mkdir -p "$HOME"',
            f"docker-credential-gcr configure-docker --registries={shlex.quote(registry)}",
            shlex.join(run),
            "shutdown -h now",
        )
    )


def _subnet(subnetwork: str) -> str:
    """A subnetwork as Compute Engine takes it: a name in the region of the VM, or one with its project.

    >>> _subnet("regions/europe-west6/subnetworks/street")
    'street'
    """
    return subnetwork if "projects/" in subnetwork else subnetwork.rpartition("/")[2]


def _prepared(start: Start, when: When, service: str) -> list[list[str]]:
    """What has to be there first; all of it may be there already, but for the account."""
    project = start.settings.project
    services = [f"{name}.googleapis.com" for name in (service, "cloudscheduler")]
    commands = [["gcloud", "services", "enable", *services, f"--project={project}"]]
    if when.make_account:
        name = when.account.partition("@")[0]
        commands.append(["gcloud", "iam", "service-accounts", "create", name, f"--project={project}"])
    return commands


def _grant(project: str, when: When, role: str) -> list[str]:
    return [
        *("gcloud", "projects", "add-iam-policy-binding", project, f"--member=serviceAccount:{when.account}"),
        *(f"--role={role}", "--condition=None"),
    ]


def _act_as(start: Start, when: When) -> list[str]:
    """Who starts something that acts as an account must be allowed to use that account."""
    return [
        *("gcloud", "iam", "service-accounts", "add-iam-policy-binding", str(start.options.service_account_email)),
        *(f"--project={start.settings.project}", f"--member=serviceAccount:{when.account}"),
        "--role=roles/iam.serviceAccountUser",
    ]


def _scheduled(project: str, when: When, name: str, uri: str, body: object) -> list[str]:
    return [
        *("gcloud", "scheduler", "jobs", "create", "http", name, f"--project={project}", f"--location={when.location}"),
        *(f"--schedule={when.schedule}", f"--time-zone={when.time_zone}", f"--uri={uri}", "--http-method=POST"),
        *("--headers=Content-Type=application/json", f"--message-body={json.dumps(body, separators=(',', ':'))}"),
        *(f"--oauth-service-account-email={when.account}", f"--oauth-token-scope={_SCOPE}"),
    ]

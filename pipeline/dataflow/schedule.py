"""Build the gcloud commands that schedule a recurring run: on Dataflow, as batch jobs, or on one small VM.

Nothing here runs them. Cloud Scheduler sends one POST request at a scheduled time; each run processes only the
remaining units.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from typing import Final

from imagebeam.pipeline.dataflow import template_request
from imagebeam.pipeline.dataflow.template_launch import LaunchSpec, gcloud_list
from imagebeam.pipeline.dataflow.template_metadata import FILES
from imagebeam.pipeline.diagnostics.iam_roles import binding_flags

#: Machine type of the VM: two shared cores, 4 GB.
MACHINE_TYPE: Final = "e2-medium"
#: Task timeouts of the Cloud Run jobs: one reads the table and creates batch jobs, one polls them once.
SUBMIT_S: Final = 6 * 3600
COLLECT_S: Final = 3600
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """When to run, and with which account.

    Attributes:
        name: Name of the created resources, and of the Dataflow job.
        cron: Five fields in cron format.
        time_zone: Time zone of the schedule.
        location: Region of Cloud Scheduler.
        account: Service account that the schedule uses.
        create_account: Whether to create that account.
    """

    name: str
    cron: str
    time_zone: str
    location: str
    account: str
    create_account: bool


def daily_commands(spec: LaunchSpec, when: Schedule, *, template: str) -> list[list[str]]:
    """Return the commands that schedule a Dataflow job from a template.

    Args:
        spec: The checked launch; its options name the service account of the workers.
        when: When to run.
        template: ``gs://`` path of the template.
    """
    project, region = spec.settings.project, str(spec.options.region)
    body = template_request.launch_body(spec, template=template, job_name=when.name)
    return [
        *spec.copy_commands,
        *_setup_commands(spec, when, "dataflow"),
        _grant_command(project, when, "roles/dataflow.admin"),
        _act_as_command(spec, when),
        _scheduler_command(project, when, when.name, template_request.launch_url(project, region), body),
    ]


def batch_commands(spec: LaunchSpec, when: Schedule, *, job: str, image: str, collect_schedule: str) -> list[list[str]]:
    """Return the commands that schedule two Cloud Run jobs: one creates batch jobs, one collects all open runs.

    Args:
        spec: The checked launch, on lane batch.
        when: When to create batch jobs.
        job: The command that creates them.
        image: Container image of both jobs.
        collect_schedule: When to collect, in cron format.
    """
    project, region = spec.settings.project, str(spec.options.region)
    submit = container_command(job, {**spec.parameters, "no_wait": "true", "project": project})
    collect = container_command("batch", {"work_dir": spec.settings.work_dir, "no_wait": "true"}, "collect")
    commands = [*spec.copy_commands, *_setup_commands(spec, when, "run")]
    for name, line, seconds, cron in (
        (when.name, submit, SUBMIT_S, when.cron),
        (f"{when.name}-collect", collect, COLLECT_S, collect_schedule),
    ):
        commands += [
            [
                *("gcloud", "run", "jobs", "deploy", name, f"--image={image}"),
                *(f"--region={region}", f"--project={project}"),
                f"--service-account={spec.options.service_account_email}",
                *(f"--command={line[0]}", f"--args={gcloud_list(line[1:])}"),
                *("--cpu=2", "--memory=4Gi", "--max-retries=0", f"--task-timeout={seconds}s"),
            ],
            [
                *("gcloud", "run", "jobs", "add-iam-policy-binding", name, f"--region={region}"),
                *(f"--project={project}", f"--member=serviceAccount:{when.account}", "--role=roles/run.invoker"),
            ],
            _scheduler_command(
                project,
                dataclasses.replace(when, cron=cron),
                name,
                f"https://run.googleapis.com/v2/projects/{project}/locations/{region}/jobs/{name}:run",
                {},
            ),
        ]
    return commands


def vm_commands(spec: LaunchSpec, when: Schedule, *, job: str, image: str) -> list[list[str]]:
    """Return the commands that schedule a small VM, which runs once per start and shuts itself down.

    Args:
        spec: The checked launch.
        when: When to start the VM.
        job: The command to run.
        image: Container image of the command.
    """
    project, options = spec.settings.project, spec.options
    zone = options.worker_zone or f"{options.region}-b"
    line = container_command(job, {**spec.parameters, "project": project})
    network = [f"--network={options.network}"] if options.network else []
    network += [f"--subnet={_subnet(options.subnetwork)}"] if options.subnetwork else []
    network += ["--no-address"] if options.use_public_ips is False else []
    location = [f"--zone={zone}", f"--project={project}"]
    return [
        *spec.copy_commands,
        *_setup_commands(spec, when, "compute"),
        [
            *("gcloud", "compute", "instances", "create", when.name, *location),
            f"--machine-type={options.machine_type or MACHINE_TYPE}",
            *("--image-family=cos-stable", "--image-project=cos-cloud", "--boot-disk-size=20GB"),
            *(f"--service-account={options.service_account_email}", "--scopes=cloud-platform", *network),
            f"--metadata={gcloud_list([f'startup-script={startup_script(line, image)}'])}",
        ],
        [
            *("gcloud", "compute", "instances", "add-iam-policy-binding", when.name, *location),
            *(f"--member=serviceAccount:{when.account}", "--role=roles/compute.instanceAdmin.v1"),
        ],
        _act_as_command(spec, when),
        _scheduler_command(
            project,
            when,
            when.name,
            f"https://compute.googleapis.com/compute/v1/projects/{project}/zones/{zone}/instances/{when.name}/start",
            {},
        ),
    ]


def container_command(command: str, flags: dict[str, str], *words: str) -> list[str]:
    """Return the command line of a command in its container, which downloads files from Cloud Storage first."""
    has_files = any(flags.get(name, "").startswith("gs://") for name in FILES)
    called = ["python", "-m", "imagebeam.pipeline.cli.flex_template"] if has_files else ["imagebeam"]
    return [*called, command, *words, *(f"--{name}={flags[name]}" for name in sorted(flags))]


def startup_script(line: Sequence[str], image: str) -> str:
    """Return the startup script of the VM: run once, with the log in Cloud Logging, and shut down."""
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
    """Return a subnetwork as Compute Engine takes it: a name in the region of the VM, or one with its project.

    >>> _subnet("regions/europe-west6/subnetworks/street")
    'street'
    """
    return subnetwork if "projects/" in subnetwork else subnetwork.rpartition("/")[2]


def _setup_commands(spec: LaunchSpec, when: Schedule, service: str) -> list[list[str]]:
    """Return the commands that enable services and create the account; only the latter fails if repeated."""
    project = spec.settings.project
    services = [f"{name}.googleapis.com" for name in (service, "cloudscheduler")]
    commands = [["gcloud", "services", "enable", *services, f"--project={project}"]]
    if when.create_account:
        name = when.account.partition("@")[0]
        commands.append(["gcloud", "iam", "service-accounts", "create", name, f"--project={project}"])
    return commands


def _grant_command(project: str, when: Schedule, role: str) -> list[str]:
    return [
        *("gcloud", "projects", "add-iam-policy-binding", project),
        *binding_flags(f"serviceAccount:{when.account}", role),
    ]


def _act_as_command(spec: LaunchSpec, when: Schedule) -> list[str]:
    """Return the command that lets the scheduler account use the service account of the run."""
    return [
        *("gcloud", "iam", "service-accounts", "add-iam-policy-binding", str(spec.options.service_account_email)),
        f"--project={spec.settings.project}",
        *binding_flags(f"serviceAccount:{when.account}", "roles/iam.serviceAccountUser"),
    ]


def _scheduler_command(project: str, when: Schedule, name: str, uri: str, body: object) -> list[str]:
    return [
        *("gcloud", "scheduler", "jobs", "create", "http", name, f"--project={project}", f"--location={when.location}"),
        *(f"--schedule={when.cron}", f"--time-zone={when.time_zone}", f"--uri={uri}", "--http-method=POST"),
        *("--headers=Content-Type=application/json", f"--message-body={json.dumps(body, separators=(',', ':'))}"),
        *(f"--oauth-service-account-email={when.account}", f"--oauth-token-scope={_SCOPE}"),
    ]

"""The Beam options of a Dataflow job: those that a user gives, validated, and those that imagebeam adds.

One process saturates the usual quota, and rate ceilings and budgets are divided by the number of processes. So each VM
runs one SDK process, and the number of VMs is fixed. All user mistakes are reported here, before anything is staged,
called or written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion

#: Bundles that a worker process runs concurrently. The engine keeps hundreds of calls in flight on its own.
HARNESS_THREADS: Final = 4
#: Set in the template's image to the name of that image, from which workers are started.
IMAGE_VARIABLE: Final = "IMAGEBEAM_SDK_IMAGE"
#: Label of every job, to find its cost in a billing export.
RUN_LABEL: Final = "imagebeam-run"

#: Regions of Google Cloud, as of November 2026.
REGIONS: Final = tuple(
    f"{area}{number}"
    for area, numbers in {
        "africa-south": (1,), "asia-east": (1, 2), "asia-northeast": (1, 2, 3), "asia-south": (1, 2),
        "asia-southeast": (1, 2, 3), "australia-southeast": (1, 2), "europe-central": (2,), "europe-north": (1, 2),
        "europe-southwest": (1,), "europe-west": (1, 2, 3, 4, 6, 8, 9, 10, 12), "me-central": (1, 2), "me-west": (1,),
        "northamerica-northeast": (1, 2), "northamerica-south": (1,), "southamerica-east": (1,),
        "southamerica-west": (1,), "us-central": (1,), "us-east": (1, 4, 5), "us-south": (1,), "us-west": (1, 2, 3, 4),
    }.items()
    for number in numbers
)  # fmt: skip

#: One SDK process per VM, not one per core.
ONE_PROCESS: Final = "no_use_multiple_sdk_containers"
#: Options that every job gets, wherever it is launched from.
ADDED: Final = frozenset(
    {"--no_save_main_session", "--autoscaling_algorithm=NONE", f"--number_of_worker_harness_threads={HARNESS_THREADS}"}
)
_ONE_PER_CORE: Final = "use_multiple_sdk_containers"
_JOB_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,1022}[a-z0-9])?")
_BUCKET_PATH = re.compile(r"gs://[a-z0-9][-_.a-z0-9]+[a-z0-9](?:/[^\r\n]*)?")
_ACCOUNT = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]+")
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}")


@dataclasses.dataclass(frozen=True, slots=True)
class DataflowJob:
    """A job to submit.

    Attributes:
        arguments: All Beam options as command-line arguments.
        options: The same options, parsed: one attribute per option.
        workers: Number of VMs, which is also the number of processes that call the model.
    """

    arguments: list[str]
    options: argparse.Namespace
    workers: int


def build_dataflow_job(given: Sequence[str], *, work_dir: str, run_id: str, environ: Mapping[str, str]) -> DataflowJob:
    """Validate the options of a job and add the missing ones.

    Args:
        given: Beam options from the command line, the config file, or the launcher of a template.
        work_dir: ``gs://`` work directory; the default locations of temporary and staged files are below it.
        run_id: Run id; becomes a label, and the default job name.
        environ: The environment: ``CLOUDSDK_COMPUTE_REGION``, and the image that this process runs in.

    Raises:
        UserError: An option is missing, invalid, or contradicts another one.
    """
    options = beam_flags.read(given)
    _check_locations(options)
    _check_network(options)
    labels = label_pairs(options.labels or [])
    workers = _workers(options)
    arguments = [_for_beam(argument) for argument in given]
    arguments += _missing(
        options,
        region=_region(options, environ),
        temp_location=f"{work_dir}/temp",
        # Without it a template stages its files in a bucket that Dataflow creates.
        staging_location=options.temp_location or f"{work_dir}/staging",
        job_name=f"imagebeam-{run_id}",
        num_workers=workers,
        max_num_workers=workers,
        autoscaling_algorithm="NONE",
        number_of_worker_harness_threads=HARNESS_THREADS,
        sdk_container_image=_image(options, environ),
    )
    if not any(label.startswith(f"{RUN_LABEL}=") for label in labels):
        arguments.append(f"--labels={RUN_LABEL}={run_id}")
    arguments += _experiments(options.experiments or [])
    # Without it Beam pickles the main module; the package has everything that workers need.
    arguments.append("--no_save_main_session")
    return DataflowJob(arguments, beam_flags.read(arguments), workers)


def check_bucket_path(name: str, text: str) -> None:
    """Check that a path is in Cloud Storage.

    Raises:
        UserError: The path is local or invalid.
    """
    if not _BUCKET_PATH.fullmatch(text):
        raise UserError(f"--{name}={text}: Dataflow workers cannot read it; use --{name}=gs://bucket/path")


def _missing(options: argparse.Namespace, **defaults: Any) -> list[str]:
    return [
        f"--{name}={value}" for name, value in defaults.items() if value is not None and getattr(options, name) is None
    ]


def _check_locations(options: argparse.Namespace) -> None:
    for name in ("temp_location", "staging_location"):
        if getattr(options, name) is not None:
            check_bucket_path(name, getattr(options, name))
    for name in ("worker_region", "worker_zone"):
        location = getattr(options, name)
        if location is not None:
            region = location.rpartition("-")[0] if name == "worker_zone" else location
            _check_region(name, region, written=location)
    if options.worker_region and options.worker_zone:
        raise UserError("--worker_region and --worker_zone are both given: the zone implies the region")
    if options.job_name is not None and not _JOB_NAME.fullmatch(options.job_name):
        raise UserError(f"--job_name={options.job_name}: use lowercase letters, digits and -, starting with a letter")


def _check_network(options: argparse.Namespace) -> None:
    account = options.service_account_email
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise UserError(
            f"--service_account_email={account}: write an account such as workers@my-project.iam.gserviceaccount.com"
        )
    subnetwork = options.subnetwork
    if subnetwork is not None and not re.fullmatch(r"(?:.*/)?regions/[^/]+/subnetworks/[^/]+", subnetwork):
        raise UserError(f"--subnetwork={subnetwork}: write regions/REGION/subnetworks/NAME")


def _region(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    region: str | None = options.region or environ.get("CLOUDSDK_COMPUTE_REGION")
    if not region:
        raise UserError("no region: set --region to the region of the job, such as --region=europe-west6")
    _check_region("region", region, written=region)
    return region


def _check_region(name: str, region: str, *, written: str) -> None:
    if region in REGIONS:
        return
    without_zone = region.rpartition("-")[0]
    if without_zone in REGIONS:
        raise UserError(f"--{name}={written} is a zone; its region is {without_zone}")
    hint = suggestion(region, REGIONS) or "; a region is written like europe-west6"
    raise UserError(f"--{name}={written} is not a Google Cloud region{hint}")


def _workers(options: argparse.Namespace) -> int:
    """Return the fixed number of VMs."""
    for name in ("num_workers", "max_num_workers"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise UserError(f"--{name}={number}: a job needs at least one worker")
    least, most = options.num_workers, options.max_num_workers
    if least is not None and most is not None and least != most:
        raise UserError(
            f"--num_workers={least} and --max_num_workers={most} differ, but rate ceilings and budgets are "
            "divided by a fixed number of workers: set only --num_workers"
        )
    if options.autoscaling_algorithm not in (None, "NONE"):
        raise UserError(
            f"--autoscaling_algorithm={options.autoscaling_algorithm}: the number of workers is fixed, because a "
            "worker that waits for the model looks idle to Dataflow; use --num_workers"
        )
    return int(least or most or 1)


def _experiments(given: Sequence[str]) -> list[str]:
    if _ONE_PER_CORE in given:
        raise UserError(
            f"--experiments={_ONE_PER_CORE}: imagebeam runs one process per worker, which saturates the usual "
            "quota and by which rate ceilings are divided; use --num_workers for more"
        )
    return [] if ONE_PROCESS in given else [f"--experiments={ONE_PROCESS}"]


def _image(options: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """Return the workers' image, which must include imagebeam; None to use what other options install."""
    image = environ.get(IMAGE_VARIABLE) or None
    if not (image or options.sdk_container_image or options.setup_file or options.extra_packages):
        raise UserError(
            "Dataflow workers need imagebeam: set --sdk_container_image=IMAGE (imagebeam template build builds "
            "one), or --setup_file=./setup.py in a checkout"
        )
    if options.setup_file and not Path(options.setup_file).is_file():
        raise UserError(f"--setup_file={options.setup_file}: file not found")
    return None if options.setup_file or options.extra_packages else image


def _for_beam(argument: str) -> str:
    """Return an option in the form that Beam handles correctly."""
    name, equals, text = argument.partition("=")
    if name == "--setup_file" and "/" not in text:
        text = f"./{text}"  # Beam cannot find the directory of a bare setup.py
    if name in {"--temp_location", "--staging_location"} and "/" not in text.removeprefix("gs://"):
        text = f"{text}/"  # Beam treats a bucket without a slash as missing, and creates one
    if name == "--dataflow_endpoint":
        text = text.replace("://127.0.0.1", "://localhost")  # Beam uses plain REST only with this name
    return f"{name}{equals}{text}"


def label_pairs(given: Sequence[str]) -> list[str]:
    """Return labels as ``key=value``.

    Args:
        given: Labels in that form, or as JSON objects, which the launcher of a template writes.

    Raises:
        UserError: Dataflow would reject a label.
    """
    labels = [label for text in given for label in _labels(text)]
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise UserError(
                f"--labels={label}: write --labels=key=value, one label each, in lowercase letters, digits, _ and -"
            )
    return labels


def _labels(text: str) -> list[str]:
    if "{" not in text:
        return [text]
    try:
        return [f"{key}={value}" for key, value in json.loads(text).items()]
    except (ValueError, AttributeError):
        raise UserError(f"--labels={text} is not a JSON object") from None

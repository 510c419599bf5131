"""What Dataflow is told: a person's options of Beam, checked, and what imagebeam adds to them.

One process saturates the usual quota, and the ceilings and caps are divided by the number of processes. So there
is one SDK process per VM, and the number of VMs never changes. Everything that a person can get wrong is said
here: nothing is staged, called or written before.
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

#: Bundles that a worker process works on at once. The engine keeps hundreds of calls in flight by itself.
HARNESS_THREADS: Final = 4
#: In the template's image: the name of the image itself, which the workers then use too.
IMAGE_VARIABLE: Final = "IMAGEBEAM_SDK_IMAGE"
#: The label of every job, so that its cost can be found in the bill.
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
#: Defaults that every job gets, wherever it is started.
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
    """A job as it will be submitted.

    Attributes:
        arguments: All options of Beam, as Beam takes them.
        options: The same, read: one attribute per option of Beam.
        workers: VMs, which is also the number of processes that call the model.
    """

    arguments: list[str]
    options: argparse.Namespace
    workers: int


def complete(given: Sequence[str], *, work_dir: str, run_id: str, environ: Mapping[str, str]) -> DataflowJob:
    """Checks the options of a job and adds what is missing.

    Args:
        given: Options of Beam, from the command line, the file, or the launcher of a template.
        work_dir: ``gs://`` directory of the run; temporary files go below it when nothing else is said.
        run_id: Becomes a label and, when there is no ``--job_name``, the job's name.
        environ: The environment: ``CLOUDSDK_COMPUTE_REGION``, and the image that this process runs in.

    Raises:
        UserError: Something is missing, contradicts something else, or cannot be.
    """
    said = beam_flags.read(given)
    _check_places(said)
    _check_network(said)
    labels = label_pairs(said.labels or [])
    workers = _workers(said)
    arguments = [_mended(argument) for argument in given]
    arguments += _missing(
        said,
        region=_region(said, environ),
        temp_location=f"{work_dir}/temp",
        job_name=f"imagebeam-{run_id}",
        num_workers=workers,
        max_num_workers=workers,
        autoscaling_algorithm="NONE",
        number_of_worker_harness_threads=HARNESS_THREADS,
        sdk_container_image=_image(said, environ),
    )
    if not any(label.startswith(f"{RUN_LABEL}=") for label in labels):
        arguments.append(f"--labels={RUN_LABEL}={run_id}")
    arguments += _experiments(said.experiments or [])
    # Beam would pickle the main module: everything that workers need is in the package.
    arguments.append("--no_save_main_session")
    return DataflowJob(arguments, beam_flags.read(arguments), workers)


def check_bucket_path(name: str, text: str) -> None:
    """Checks that a place is in Cloud Storage.

    Raises:
        UserError: It is on this machine, or no place at all.
    """
    if not _BUCKET_PATH.fullmatch(text):
        raise UserError(f"--{name}={text}: workers of Dataflow cannot see it; give --{name}=gs://bucket/path")


def _missing(said: argparse.Namespace, **defaults: Any) -> list[str]:
    return [
        f"--{name}={value}" for name, value in defaults.items() if value is not None and getattr(said, name) is None
    ]


def _check_places(said: argparse.Namespace) -> None:
    for name in ("temp_location", "staging_location"):
        if getattr(said, name) is not None:
            check_bucket_path(name, getattr(said, name))
    for name in ("worker_region", "worker_zone"):
        place = getattr(said, name)
        if place is not None:
            _check_region(name, place.rpartition("-")[0] if name == "worker_zone" else place, written=place)
    if said.worker_region and said.worker_zone:
        raise UserError("--worker_region and --worker_zone are both given: a zone says the region too")
    if said.job_name is not None and not _JOB_NAME.fullmatch(said.job_name):
        raise UserError(f"--job_name={said.job_name}: lower-case letters, digits and -, beginning with a letter")


def _check_network(said: argparse.Namespace) -> None:
    account = said.service_account_email
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise UserError(
            f"--service_account_email={account}: an account such as workers@my-project.iam.gserviceaccount.com"
        )
    subnetwork = said.subnetwork
    if subnetwork is not None and not re.fullmatch(r"(?:.*/)?regions/[^/]+/subnetworks/[^/]+", subnetwork):
        raise UserError(f"--subnetwork={subnetwork}: write regions/REGION/subnetworks/NAME")


def _region(said: argparse.Namespace, environ: Mapping[str, str]) -> str:
    region: str | None = said.region or environ.get("CLOUDSDK_COMPUTE_REGION")
    if not region:
        raise UserError("no region: give --region, such as --region=europe-west6, where Dataflow runs the job")
    _check_region("region", region, written=region)
    return region


def _check_region(name: str, region: str, *, written: str) -> None:
    if region in REGIONS:
        return
    without_zone = region.rpartition("-")[0]
    if without_zone in REGIONS:
        raise UserError(f"--{name}={written} is a zone; its region is {without_zone}")
    hint = suggestion(region, REGIONS) or "; regions are named like europe-west6"
    raise UserError(f"--{name}={written} is no region of Google Cloud{hint}")


def _workers(said: argparse.Namespace) -> int:
    """The fixed number of VMs."""
    for name in ("num_workers", "max_num_workers"):
        number = getattr(said, name)
        if number is not None and number < 1:
            raise UserError(f"--{name}={number}: a job needs one worker or more")
    least, most = said.num_workers, said.max_num_workers
    if least is not None and most is not None and least != most:
        raise UserError(
            f"--num_workers={least} and --max_num_workers={most} differ, but ceilings and caps are divided by a "
            "fixed number of workers: give --num_workers alone"
        )
    if said.autoscaling_algorithm not in (None, "NONE"):
        raise UserError(
            f"--autoscaling_algorithm={said.autoscaling_algorithm}: the number of workers is fixed, because waiting "
            "for a model looks idle to Dataflow; give --num_workers"
        )
    return int(least or most or 1)


def _experiments(given: Sequence[str]) -> list[str]:
    if _ONE_PER_CORE in given:
        raise UserError(
            f"--experiments={_ONE_PER_CORE}: imagebeam runs one process per worker, which is enough for the usual "
            "quota and what ceilings count; give --num_workers for more"
        )
    return [] if ONE_PROCESS in given else [f"--experiments={ONE_PROCESS}"]


def _image(said: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """The image of the workers, which must have imagebeam in it."""
    image = environ.get(IMAGE_VARIABLE) or None
    if not (image or said.sdk_container_image or said.setup_file or said.extra_packages):
        raise UserError(
            "the workers of Dataflow need imagebeam: give --sdk_container_image=IMAGE (imagebeam template build makes "
            "one), or --setup_file=./setup.py in a checkout"
        )
    if said.setup_file and not Path(said.setup_file).is_file():
        raise UserError(f"--setup_file={said.setup_file}: no such file")
    return None if said.setup_file or said.extra_packages else image


def _mended(argument: str) -> str:
    """An option as Beam understands it."""
    name, equals, text = argument.partition("=")
    if name == "--setup_file" and "/" not in text:
        text = f"./{text}"  # it cannot find the directory of a bare setup.py
    if name in {"--temp_location", "--staging_location"} and "/" not in text.removeprefix("gs://"):
        text = f"{text}/"  # it takes a bucket without a slash for none, and makes one
    if name == "--dataflow_endpoint":
        text = text.replace(
            "://127.0.0.1", "://localhost"
        )  # only this name lets it speak REST, as the local cloud does
    return f"{name}{equals}{text}"


def label_pairs(given: Sequence[str]) -> list[str]:
    """Labels as ``key=value``, from such or from JSON objects, as the launcher of a template writes them.

    Raises:
        UserError: One that Dataflow would refuse.
    """
    labels = [label for text in given for label in _labels(text)]
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise UserError(
                f"--labels={label}: write --labels=key=value, one label each, in lower-case letters, digits, _ and -"
            )
    return labels


def _labels(text: str) -> list[str]:
    if "{" not in text:
        return [text]
    try:
        return [f"{key}={value}" for key, value in json.loads(text).items()]
    except (ValueError, AttributeError):
        raise UserError(f"--labels={text} is no JSON object") from None

"""Where a job for Dataflow is staged, tried before, and what to say when the job could not be submitted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import google.api_core.exceptions as api_errors
import google.auth.exceptions
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import SystemicError, UserError
from imagebeam.transforms.core.images import parse_gs_uri


def check(arguments: Sequence[str]) -> None:
    """Proves that graph and packages can be staged: Beam would try for minutes before it says that they cannot.

    Args:
        arguments: All options of Beam.

    Raises:
        UserError: A bucket is missing, or may not be written; or Beam refuses an option.
    """
    options = beam_flags.read(arguments)
    try:
        _check_places({"temp_location": options.temp_location, "staging_location": options.staging_location})
    except google.auth.exceptions.GoogleAuthError:
        return  # missing credentials are told by the checks that every run begins with
    # Beam's own checks look at the buckets too, so they come second.
    problems = PipelineOptionsValidator(PipelineOptions(list(arguments)), DataflowRunner()).validate()
    if problems:
        raise UserError(f"Beam refuses the options of the job: {' '.join(problems)}")


def read(place: str) -> bytes | None:
    """Reads a file that a template was given; None when there is none.

    Raises:
        UserError: It may not be read, or is no place in Cloud Storage.
    """
    if parse_gs_uri(place) is None:
        raise UserError(f"{place} is not a Cloud Storage path: use gs://BUCKET/PATH")
    try:
        return storage.read(place)
    except (api_errors.GoogleAPICallError, google.auth.exceptions.GoogleAuthError) as error:
        raise UserError(f"{place} cannot be read: {_line(error)}") from None


def refused(error: Exception) -> Exception:
    """What to raise instead of an error of the submission; the error itself when Dataflow has no part in it."""
    if isinstance(error, DataflowJobAlreadyExistsError):
        return UserError(f"Dataflow has such a job already: {_line(error)}")
    if isinstance(error, api_errors.Forbidden):
        return SystemicError(
            "Dataflow does not let you start a job; you need its API enabled, roles/dataflow.developer, and "
            f"roles/iam.serviceAccountUser on the workers' account: {_line(error)}"
        )
    if isinstance(error, api_errors.GoogleAPICallError):
        return SystemicError(f"Dataflow does not take the job: {_line(error)}")
    return error


def _check_places(places: Mapping[str, str | None]) -> None:
    for name, directory in places.items():
        place = parse_gs_uri(storage.join(directory or "", f".probe-{os.getpid()}"))
        if place is None:
            continue
        blob = storage.storage_client().bucket(place[0]).blob(place[1])
        try:
            blob.upload_from_string(b"imagebeam\n")
            blob.delete()
        except api_errors.NotFound:
            raise UserError(
                f"--{name}={directory}: bucket {place[0]} does not exist; create it in the region of the job with "
                f"`gcloud storage buckets create gs://{place[0]}`"
            ) from None
        except api_errors.GoogleAPICallError as error:
            raise UserError(
                f"--{name}={directory} is not writable ({_line(error)}); use a bucket where you can create and "
                "delete objects (roles/storage.objectAdmin)"
            ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]

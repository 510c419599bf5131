"""Staging of a Dataflow job: checks before the submission, and the errors of a failed one."""

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
    """Check that graph and packages can be staged. Beam would retry for minutes before it fails.

    Args:
        arguments: All Beam options.

    Raises:
        UserError: A bucket is missing or cannot be written, or Beam rejects an option.
    """
    options = beam_flags.read(arguments)
    try:
        _check_buckets({"temp_location": options.temp_location, "staging_location": options.staging_location})
    except google.auth.exceptions.GoogleAuthError:
        return  # the checks at the start of every run report missing credentials
    # Beam's own checks read the buckets too, so they come second.
    problems = PipelineOptionsValidator(PipelineOptions(list(arguments)), DataflowRunner()).validate()
    if problems:
        raise UserError(f"Beam rejects the options of the job: {' '.join(problems)}")


def read(uri: str) -> bytes | None:
    """Read a file that is a parameter of a template; return None if it does not exist.

    Raises:
        UserError: The file cannot be read, or is not in Cloud Storage.
    """
    if parse_gs_uri(uri) is None:
        raise UserError(f"{uri} is not an object in Cloud Storage: write gs://bucket/path")
    try:
        return storage.read(uri)
    except (api_errors.GoogleAPICallError, google.auth.exceptions.GoogleAuthError) as error:
        raise UserError(f"cannot read {uri}: {_line(error)}") from None


def submission_error(error: Exception) -> Exception:
    """Return the error to raise for a failed submission; the error itself if it is not from Dataflow."""
    if isinstance(error, DataflowJobAlreadyExistsError):
        return UserError(f"a Dataflow job of this name is already running: {_line(error)}")
    if isinstance(error, api_errors.Forbidden):
        return SystemicError(
            "no permission to start a Dataflow job; it needs the Dataflow API enabled, roles/dataflow.developer, and "
            f"roles/iam.serviceAccountUser on the workers' service account: {_line(error)}"
        )
    if isinstance(error, api_errors.GoogleAPICallError):
        return SystemicError(f"Dataflow rejects the job: {_line(error)}")
    return error


def _check_buckets(directories: Mapping[str, str | None]) -> None:
    for name, directory in directories.items():
        probe = parse_gs_uri(storage.join(directory or "", f".probe-{os.getpid()}"))
        if probe is None:
            continue
        bucket, path = probe
        blob = storage.storage_client().bucket(bucket).blob(path)
        try:
            blob.upload_from_string(b"imagebeam\n")
            blob.delete()
        except api_errors.NotFound:
            raise UserError(
                f"--{name}={directory}: bucket {bucket} does not exist; create it in the region of the job with "
                f"`gcloud storage buckets create gs://{bucket}`"
            ) from None
        except api_errors.GoogleAPICallError as error:
            raise UserError(
                f"--{name}={directory} is not writable ({_line(error)}); use a bucket where you can create and "
                "delete objects (roles/storage.objectAdmin)"
            ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]

"""Where a job for Dataflow is staged, tried before, and what to say when the job could not be submitted."""

from __future__ import annotations

import os
from collections.abc import Sequence

import google.api_core.exceptions as api_errors
import google.auth.exceptions
from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError

from imagebeam.pipeline import beam_flags
from imagebeam.transforms import objects
from imagebeam.transforms.errors import SystemicError, UserError
from imagebeam.transforms.images import parse_gs_uri


def check(arguments: Sequence[str]) -> None:
    """Proves that graph and packages can be staged: Beam would try for minutes before it says that they cannot.

    Args:
        arguments: All options of Beam.

    Raises:
        UserError: A bucket is missing, or may not be written.
    """
    options = beam_flags.read(arguments)
    places = {"temp_location": options.temp_location, "staging_location": options.staging_location}
    for name, directory in places.items():
        place = parse_gs_uri(objects.join(directory or "", f".probe-{os.getpid()}"))
        if place is None:
            continue
        blob = objects.storage_client().bucket(place[0]).blob(place[1])
        try:
            blob.upload_from_string(b"imagebeam\n")
            blob.delete()
        except google.auth.exceptions.GoogleAuthError:
            return  # missing credentials are told by the checks that every run begins with
        except api_errors.NotFound:
            raise UserError(
                f"--{name}={directory}: there is no bucket {place[0]}; make it in the region of the job, with "
                f"`gcloud storage buckets create gs://{place[0]}`"
            ) from None
        except api_errors.GoogleAPICallError as error:
            raise UserError(
                f"--{name}={directory} cannot be written ({_line(error)}); name a bucket where you may create and "
                "delete objects (roles/storage.objectAdmin)"
            ) from None


def read(place: str) -> bytes | None:
    """Reads a file that a template was given; None when there is none.

    Raises:
        UserError: It may not be read, or is no place in Cloud Storage.
    """
    if parse_gs_uri(place) is None:
        raise UserError(f"{place} is no object in Cloud Storage: write gs://bucket/path")
    try:
        return objects.read(place)
    except (api_errors.GoogleAPICallError, google.auth.exceptions.GoogleAuthError) as error:
        raise UserError(f"{place} cannot be read: {_line(error)}") from None


def refused(error: Exception) -> Exception:
    """What to raise instead of an error of the submission; the error itself when Dataflow has no part in it."""
    if isinstance(error, DataflowJobAlreadyExistsError):
        return UserError(f"Dataflow has such a job already: {_line(error)}")
    if isinstance(error, api_errors.Forbidden):
        return SystemicError(f"you may not start jobs of Dataflow here (roles/dataflow.developer): {_line(error)}")
    if isinstance(error, api_errors.GoogleAPICallError):
        return SystemicError(f"Dataflow does not take the job: {_line(error)}")
    return error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]

"""Read and write files under ``gs://`` or local paths with the same functions, and read images.

Beam's FileSystems builds a client per call on ``gs://`` (5.4 ms of CPU, 0.7 ms here), so the process keeps one
google-cloud-storage client.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google.api_core.exceptions as api_errors
import google.cloud.storage as storage
import requests.adapters
from google.cloud.storage.exceptions import InvalidResponse

from imagebeam.transforms.core.errors import UserError, first_line
from imagebeam.transforms.core.images import ImageError, checked_uri, parse_gs_uri
from imagebeam.transforms.core.records import ImageReason
from imagebeam.transforms.core.text import quote

CONNECTIONS = 32
#: Upload chunk size in bytes; the client's default buffers 100 MB.
CHUNK_BYTES = 16 * 1024 * 1024

_lock = threading.Lock()
_client: tuple[int, storage.Client] | None = None


def storage_client() -> storage.Client:
    """Return the Cloud Storage client of this process; a forked child creates its own."""
    global _client
    with _lock:
        if _client is None or _client[0] != os.getpid():
            client = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or None)
            # requests pools ten connections by default; the engine reads images from more threads.
            for scheme in ("https://", "http://"):
                client._http.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
            _client = (os.getpid(), client)
        return _client[1]


def read_image(uri: str | None, *, limit: int | None = None, client: storage.Client | None = None) -> bytes:
    """Read an image, or its first bytes.

    Args:
        uri: ``gs://bucket/name``.
        limit: Maximum number of bytes, read from the start; None for all.
        client: Client of another account; the client of this process by default.

    Raises:
        ImageError: The URI is missing or malformed, or the object is missing, forbidden or empty.
    """
    blob = storage.Blob.from_uri(checked_uri(uri), client=client or storage_client())
    try:
        return bytes(blob.download_as_bytes(end=None if limit is None else limit - 1, raw_download=True))
    except api_errors.NotFound:
        raise ImageError(ImageReason.NOT_FOUND, f"no such object: {uri}") from None
    except (api_errors.Forbidden, api_errors.Unauthorized) as error:
        raise ImageError(ImageReason.FORBIDDEN, f"no permission to read {uri}: {error.message}"[:500]) from None
    except api_errors.RequestRangeNotSatisfiable:
        raise ImageError(ImageReason.UNREADABLE, f"the object is empty: {uri}") from None


def create(path: str, data: bytes) -> bool:
    """Create a file or object atomically; return False if it already exists."""
    blob = _blob(path)
    try:
        if blob is not None:
            blob.upload_from_string(data, content_type="application/octet-stream", if_generation_match=0)
        else:
            with _local_target(path).open("xb") as file:
                file.write(data)
    except (api_errors.PreconditionFailed, FileExistsError):
        return False
    return True


def write(path: str, data: bytes, *, content_type: str = "application/json") -> None:
    """Write a file or object, and replace an existing one."""
    blob = _blob(path)
    if blob is not None:
        blob.upload_from_string(data, content_type=content_type)
    else:
        target = _local_target(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(target)


@contextlib.contextmanager
def open_new(path: str, *, content_type: str, replace: bool) -> Iterator[IO[bytes]]:
    """Open a file or object that appears, complete, when the block ends; not if it ends with an exception.

    Args:
        path: ``gs://`` or a local path.
        content_type: Content type of an object.
        replace: Whether to replace an existing file or object.

    Raises:
        UserError: The path is not writable, or exists.
    """
    blob = _blob(path, chunk_size=CHUNK_BYTES)
    try:
        if blob is not None:
            condition = {} if replace else {"if_generation_match": 0}
            with blob.open("wb", content_type=content_type, ignore_flush=True, **condition) as upload:
                yield upload
            return
        target = _local_target(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                yield file
            if not replace and target.exists():
                raise FileExistsError(path)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except (api_errors.PreconditionFailed, FileExistsError):
        raise UserError(f"{path} already exists") from None
    except InvalidResponse as error:  # of an upload in chunks, which the client does not translate
        status = error.response.status_code
        causes = {403: "no permission", 404: "the bucket does not exist", 412: "it already exists"}
        raise UserError(f"{path} is not writable: {causes.get(status, f'HTTP status {status}')}") from None
    except (OSError, api_errors.ClientError) as error:
        raise UserError(f"{path} is not writable: {first_line(error, 200)}") from None


def exists(path: str) -> bool:
    """Return whether a file or object exists.

    Raises:
        UserError: The bucket does not exist, or the object cannot be read.
    """
    blob = _blob(path)
    if blob is None:
        return Path(path).exists()
    try:
        return bool(blob.exists())
    except api_errors.ClientError as error:
        raise UserError(f"{path} cannot be read: {first_line(error, 200)}") from None


def read(path: str) -> bytes | None:
    """Read a file or object; return None if it does not exist."""
    blob = _blob(path)
    with contextlib.suppress(api_errors.NotFound, FileNotFoundError):
        return Path(path).read_bytes() if blob is None else bytes(blob.download_as_bytes())
    return None


def delete(path: str) -> None:
    """Delete a file or object if it exists."""
    blob = _blob(path)
    remove = Path(path).unlink if blob is None else blob.delete
    with contextlib.suppress(api_errors.NotFound, FileNotFoundError):
        remove()


def list_names(directory: str) -> list[str]:
    """Return the sorted names of all files under a directory, at any depth, relative to the directory."""
    place = _place(join(directory, ""))
    if place is not None:
        found = storage_client().list_blobs(place[0], prefix=place[1], fields="items(name),nextPageToken")
        return sorted(blob.name[len(place[1]) :] for blob in found)
    root = Path(directory)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def upload(path: str, file: Path) -> None:
    """Copy a local file to a path, and replace an existing file."""
    blob = _blob(path, chunk_size=CHUNK_BYTES)
    if blob is not None:
        blob.upload_from_filename(file, content_type="application/json")
    else:
        shutil.copyfile(file, _local_target(path))


def download(path: str, file: Path) -> bool:
    """Copy a path to a local file; return False if the path does not exist."""
    blob = _blob(path)
    try:
        if blob is not None:
            blob.download_to_filename(file)
        else:
            shutil.copyfile(path, file)
    except (api_errors.NotFound, FileNotFoundError):
        return False
    return True


def check_writable(directory: str, location: str = "…") -> None:
    """Check that the work directory is writable, by writing and deleting a small file.

    Args:
        directory: ``gs://`` or a local path.
        location: Location in the suggested command that creates a missing bucket.

    Raises:
        UserError: The directory is not writable; the message has the reason and the fix.
    """
    probe = join(directory, f".probe-{os.getpid()}")
    try:
        write(probe, b"imagebeam\n", content_type="text/plain")
        delete(probe)
    except api_errors.NotFound:
        bucket = directory.removeprefix("gs://").partition("/")[0]
        raise UserError(
            f"--work_dir={directory}: bucket {bucket} does not exist",
            fix=f"gcloud storage buckets create gs://{bucket} --location={location}",
        ) from None
    except (OSError, api_errors.GoogleAPIError) as error:
        raise UserError(
            f"--work_dir={directory} is not writable ({first_line(error, 200)}); use a directory or a gs:// prefix "
            "that you can write to"
        ) from None


def read_bucket_location(directory: str) -> str | None:
    """Return the location of the bucket of a directory, in lowercase.

    Returns:
        None if it is not a bucket in one region or multi-region, or the account cannot read its metadata.
    """
    place = _place(join(directory, ""))
    if place is None:
        return None
    with contextlib.suppress(api_errors.NotFound, api_errors.Forbidden):
        bucket = storage_client().get_bucket(place[0])
        return None if bucket.location_type == "dual-region" else str(bucket.location or "").lower() or None
    return None


def join(directory: str, *names: str) -> str:
    """Join names to a directory, ``gs://`` or local."""
    return "/".join([directory.rstrip("/"), *names])


def is_local(path: str) -> bool:
    """Return True for a path on this machine."""
    return not path.startswith("gs://")


def _place(path: str) -> tuple[str, str] | None:
    """Return bucket and object name, or None for a path on this machine.

    Raises:
        UserError: The ``gs://`` URI is invalid; it is never treated as a local path.
    """
    place = parse_gs_uri(path)
    if place is None and not is_local(path):
        raise UserError(f"{quote(path)} is not a Cloud Storage path; use gs://BUCKET/PATH with a valid bucket name")
    return place


def _blob(path: str, chunk_size: int | None = None) -> storage.Blob | None:
    place = _place(path)
    return place and storage_client().bucket(place[0]).blob(place[1], chunk_size=chunk_size)


def _local_target(path: str) -> Path:
    """Return a path on this machine, whose directory exists."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target

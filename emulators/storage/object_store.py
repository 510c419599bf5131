"""Cloud Storage objects as plain files: ``DIR/storage/<bucket>/<object path>``.

A file that a user puts there is an object too. What a file cannot represent (custom metadata, an unusual content
type) is stored in ``DIR/storage-metadata``. The generation of an object is its file's modification time in
microseconds, so that an edited file automatically is a new generation.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from imagebeam.emulators.core.cache import LruCache
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage import object_names
from imagebeam.emulators.storage.object_metadata import (
    StoredObject,
    compute_digests,
    compute_file_digests,
    guess_type,
    metadata_record,
    read_metadata,
    write_metadata,
)

#: Maximum number of cached checksums. With the cache, listings do not read the files again.
CACHED_DIGESTS: Final = 100_000

Check = Callable[[StoredObject | None], None]


class ObjectStore:
    """Buckets and objects below a directory. Thread-safe within one process.

    Args:
        directory: State directory, in which ``storage/`` and ``storage-metadata/`` are created.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory / "storage"
        self._metadata_root = directory / "storage-metadata"
        self._uploads = self._metadata_root / ".uploads"
        shutil.rmtree(self._uploads, ignore_errors=True)
        self._root.mkdir(parents=True, exist_ok=True)
        self._uploads.mkdir(parents=True)
        self._lock = threading.RLock()
        self._last_generation = 0
        self._digests: LruCache[tuple[str, str, int, int], tuple[str, str]] = LruCache(CACHED_DIGESTS)

    # Buckets

    def create_bucket(self, bucket: str, properties: dict[str, Any] | None = None) -> dict[str, Any]:
        """Create a bucket and return its metadata.

        Raises:
            ApiError: 400 for an invalid name, 409 if the bucket exists.
        """
        if not object_names.is_valid_bucket(bucket):
            raise ApiError(400, f"Invalid bucket name: '{bucket}'")
        with self._lock:
            if (self._root / bucket).exists():
                raise ApiError(409, "Your previous request to create the named bucket succeeded.")
            (self._root / bucket).mkdir()
            return self.update_bucket(bucket, dict(properties or {}))

    def bucket(self, bucket: str) -> dict[str, Any]:
        """Return a bucket's metadata: ``created_us``, ``updated_us``, ``metageneration``, ``fields``.

        Raises:
            ApiError: 404 if the bucket does not exist.
        """
        with self._lock:
            stat = self._bucket_directory(bucket).stat()
            record = read_metadata(self._metadata_root / bucket / "bucket.json")
            created = stat.st_ctime_ns // 1000
            return record or {"created_us": created, "updated_us": created, "metageneration": 1, "fields": {}}

    def update_bucket(self, bucket: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Replace a bucket's writable fields and return its metadata."""
        with self._lock:
            now = time.time_ns() // 1000
            path = self._metadata_root / bucket / "bucket.json"
            old = read_metadata(path)
            record = {
                "created_us": old["created_us"] if old else now,
                "updated_us": now,
                "metageneration": old["metageneration"] + 1 if old else 1,
                "fields": fields,
            }
            write_metadata(path, record)
            return record

    def buckets(self) -> list[str]:
        """Return the names of all buckets, sorted."""
        entries = (entry.name for entry in os.scandir(self._root) if entry.is_dir())
        return sorted(name for name in entries if object_names.is_valid_bucket(name))

    def delete_bucket(self, bucket: str) -> None:
        """Delete an empty bucket.

        Raises:
            ApiError: 404 if it does not exist, 409 if it is not empty.
        """
        with self._lock:
            top = self._bucket_directory(bucket)
            if next(self._walk(top, []), None) is not None:
                raise ApiError(409, "The bucket you tried to delete is not empty.")
            try:
                for directory, _, _ in os.walk(top, topdown=False):
                    Path(directory).rmdir()
            except OSError as problem:
                raise ApiError(409, f"The bucket you tried to delete is not empty: {problem}") from problem
            shutil.rmtree(self._metadata_root / bucket, ignore_errors=True)

    # Objects

    def read(self, bucket: str, name: str) -> StoredObject | None:
        """Return an object, or None if the bucket or the object does not exist."""
        with self._lock:
            path = self._find_file(bucket, name)
            return None if path is None else self._describe(bucket, name, path, path.stat())

    def open(self, bucket: str, name: str) -> tuple[StoredObject, BinaryIO] | None:
        """Return an object and its open file, or None. The file keeps the content of this generation."""
        with self._lock:
            path = self._find_file(bucket, name)
            if path is None:
                return None
            stream = path.open("rb")
            return self._describe(bucket, name, path, os.fstat(stream.fileno())), stream

    def write(
        self,
        bucket: str,
        name: str,
        data: bytes,
        content_type: str | None = None,
        if_generation_match: int | None = None,
    ) -> StoredObject:
        """Store an object.

        Args:
            bucket: An existing bucket.
            name: Object name.
            data: Content.
            content_type: Content type. Default: guessed from the name.
            if_generation_match: Required current generation (0: the object must not exist); None for any.

        Raises:
            ApiError: 400 for an invalid name, 404 for a missing bucket, 412 if the precondition failed.
        """

        def check(current: StoredObject | None) -> None:
            if if_generation_match is not None and if_generation_match != (current.generation if current else 0):
                raise ApiError(412, "At least one of the pre-conditions you specified did not hold.")

        temporary = self.temporary()
        temporary.write_bytes(data)
        fields = {"contentType": content_type} if content_type else {}
        return self.store_file(bucket, name, temporary, fields, check=check, digests=compute_digests(data))

    def temporary(self) -> Path:
        """Return a new path for a file to pass to `store_file`. It is deleted at the next start."""
        return self._uploads / uuid.uuid4().hex

    def store_file(
        self,
        bucket: str,
        name: str,
        temporary: Path,
        fields: dict[str, Any],
        *,
        check: Check | None = None,
        components: int = 0,
        digests: tuple[str, str] | None = None,
    ) -> StoredObject:
        """Atomically make a temporary file an object.

        Args:
            bucket: An existing bucket.
            name: Object name.
            temporary: File from `temporary`. It no longer exists afterwards, even after an error.
            fields: Writable metadata of the JSON API.
            check: Called with the current object; raises ``ApiError`` to reject the write.
            components: Number of components of a composed object.
            digests: MD5 and CRC32C of the content in base64, if known.

        Raises:
            ApiError: 400 for an invalid name, 404 for a missing bucket, or the error that ``check`` raises.
        """
        try:
            problem = object_names.name_error(name)
            if problem:
                raise ApiError(400, problem)
            with self._lock:
                top = self._bucket_directory(bucket)
                if check is not None:
                    check(self.read(bucket, name))
                generation = max(self._last_generation + 1, time.time_ns() // 1000)
                self._last_generation = generation
                os.utime(temporary, ns=(generation * 1000, generation * 1000))
                target = self._prepare_path(top, object_names.to_parts(name))
                temporary.replace(target)
                record = metadata_record(name, generation, 1, generation, fields, components)
                self._save_metadata(bucket, record)
                stored = self._describe(bucket, name, target, target.stat())
                if digests:
                    self._digests.put(_digest_key(stored), digests)
                return stored
        except OSError as problem:
            raise ApiError(400, f"This file system cannot hold the object: {problem.strerror}") from problem
        finally:
            temporary.unlink(missing_ok=True)

    def update(self, bucket: str, name: str, fields: dict[str, Any], check: Check | None = None) -> StoredObject:
        """Replace an object's writable metadata and increment its metageneration.

        Raises:
            ApiError: 404 if the object does not exist, or the error that ``check`` raises.
        """
        with self._lock:
            old = self.read(bucket, name)
            if old is None:
                raise object_not_found(bucket, name)
            if check is not None:
                check(old)
            changed = max(old.updated_us + 1, time.time_ns() // 1000)
            metageneration = old.metageneration + 1
            record = metadata_record(name, old.generation, metageneration, changed, fields, old.components)
            self._save_metadata(bucket, record)
            return self._describe(bucket, name, old.path, old.path.stat())

    def delete(self, bucket: str, name: str, check: Check | None = None) -> None:
        """Delete an object and the directories that become empty.

        Raises:
            ApiError: 404 if the object does not exist, or the error that ``check`` raises.
        """
        with self._lock:
            top = self._bucket_directory(bucket)
            old = self.read(bucket, name)
            if old is None:
                raise object_not_found(bucket, name)
            if check is not None:
                check(old)
            old.path.unlink()
            self._metadata_path(bucket, name).unlink(missing_ok=True)
            for parent in old.path.parents:
                if parent == top:
                    break
                try:
                    parent.rmdir()
                except OSError:
                    break

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the names of a bucket's objects that start with ``prefix``, in the order of their UTF-8 bytes.

        Raises:
            ApiError: 404 if the bucket does not exist.
        """
        with self._lock:
            top = self._bucket_directory(bucket)
            parts = object_names.to_parts(prefix.rpartition("/")[0]) if "/" in prefix else []
            found = {name for name in self._walk(top.joinpath(*parts), parts) if name.startswith(prefix)}
        return sorted(found, key=str.encode)

    def list(self, bucket: str, prefix: str = "") -> list[StoredObject]:
        """Return a bucket's objects whose names start with ``prefix``, in order."""
        found = (self.read(bucket, name) for name in self.names(bucket, prefix))
        return [stored for stored in found if stored is not None]

    def digests(self, stored: StoredObject) -> tuple[str, str]:
        """Return an object's MD5 and CRC32C in base64, as in the object resource."""
        key = _digest_key(stored)
        return self._digests.get(key) or self._digests.put(key, compute_file_digests(stored.path))

    # Files

    def _bucket_directory(self, bucket: str) -> Path:
        directory = self._root / bucket
        if not object_names.is_valid_bucket(bucket) or not directory.is_dir():
            raise ApiError(404, "The specified bucket does not exist.")
        return directory

    def _find_file(self, bucket: str, name: str) -> Path | None:
        if not object_names.is_valid_bucket(bucket) or object_names.name_error(name):
            return None
        path = self._root.joinpath(bucket, *object_names.to_parts(name))
        with contextlib.suppress(OSError):  # a name that is too long for the file system does not exist
            if path.is_file():
                return path
            sibling = path.with_name(object_names.SIBLING + path.name)
            if sibling.is_file():
                return sibling
        return None

    def _prepare_path(self, top: Path, parts: Sequence[str]) -> Path:
        """Create the directories of an object; rename a file that has the name of one of them."""
        target = top.joinpath(*parts)
        if not target.parent.is_dir():
            directory = top
            for part in parts[:-1]:
                directory = directory / part
                if directory.is_file():
                    directory.rename(directory.with_name(object_names.SIBLING + part))
                directory.mkdir(exist_ok=True)
        sibling = target.with_name(object_names.SIBLING + target.name)
        if target.is_dir():
            return sibling
        sibling.unlink(missing_ok=True)
        return target

    def _walk(self, directory: Path, parts: Sequence[str]) -> Iterator[str]:
        try:
            entries = list(os.scandir(directory))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            below = [*parts, entry.name]
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(directory / entry.name, below)
            elif entry.is_file():
                name = object_names.from_parts(below)
                if name is not None:
                    yield name

    # Metadata

    def _describe(self, bucket: str, name: str, path: Path, stat: os.stat_result) -> StoredObject:
        generation = stat.st_mtime_ns // 1000
        record = read_metadata(self._metadata_path(bucket, name))
        if not record or record["generation"] != generation:  # outdated: a user replaced the file
            record = metadata_record(name, generation, 1, generation, {}, 0)
        return StoredObject(
            bucket=bucket,
            name=name,
            path=path,
            size=stat.st_size,
            generation=generation,
            metageneration=record["metageneration"],
            updated_us=record["updated_us"],
            fields=record["fields"],
            components=record["components"],
        )

    def _metadata_path(self, bucket: str, name: str) -> Path:
        key = hashlib.sha256(name.encode()).hexdigest()
        return self._metadata_root / bucket / key[:2] / f"{key[2:]}.json"

    def _save_metadata(self, bucket: str, record: dict[str, Any]) -> None:
        path = self._metadata_path(bucket, record["name"])
        fields = {key: value for key, value in record["fields"].items() if value not in (None, {}, "")}
        if fields.get("contentType") == guess_type(record["name"]):
            del fields["contentType"]
        if fields or record["components"] or record["metageneration"] != 1:
            write_metadata(path, record | {"fields": fields})
        else:  # the file itself represents all metadata
            path.unlink(missing_ok=True)


def object_not_found(bucket: str, name: str) -> ApiError:
    """Return the 404 for an object."""
    return ApiError(404, f"No such object: {bucket}/{name}")


def _digest_key(stored: StoredObject) -> tuple[str, str, int, int]:
    return stored.bucket, stored.name, stored.generation, stored.size

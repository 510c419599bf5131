"""Cloud Storage objects as plain files: ``DIR/storage/<bucket>/<object path>``.

A file that a person puts there is an object too. What a file cannot say (custom metadata, an unusual
content type) is kept in ``DIR/storage-metadata``. The generation of an object *is* its file's
modification time in microseconds, so that an edited file is a new generation without any bookkeeping.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage import object_names
from imagebeam.emulators.storage.object_metadata import (
    StoredObject,
    digest,
    digest_of,
    guess_type,
    note_of,
    read_note,
    write_note,
)

#: Checksums that are remembered, so that listings do not read the files again.
REMEMBERED_DIGESTS: Final = 100_000

Check = Callable[[StoredObject | None], None]


class ObjectStore:
    """Buckets and objects below one directory; safe to use from many threads of one process.

    Args:
        directory: State directory; ``storage/`` and ``storage-metadata/`` are made in it.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory / "storage"
        self._notes = directory / "storage-metadata"
        self._uploads = self._notes / ".uploads"
        shutil.rmtree(self._uploads, ignore_errors=True)
        self._root.mkdir(parents=True, exist_ok=True)
        self._uploads.mkdir(parents=True)
        self._lock = threading.RLock()
        self._last_generation = 0
        self._digests: OrderedDict[tuple[str, str, int, int], tuple[str, str]] = OrderedDict()

    # Buckets

    def create_bucket(self, bucket: str, properties: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make a bucket and return its notes.

        Raises:
            ApiError: 400 for a bad name, 409 when the bucket exists.
        """
        if not object_names.valid_bucket(bucket):
            raise ApiError(400, f"Invalid bucket name: '{bucket}'")
        with self._lock:
            if (self._root / bucket).exists():
                raise ApiError(409, "Your previous request to create the named bucket succeeded.")
            (self._root / bucket).mkdir()
            return self.update_bucket(bucket, dict(properties or {}))

    def bucket(self, bucket: str) -> dict[str, Any]:
        """Return a bucket's notes: ``created_us``, ``updated_us``, ``metageneration``, ``fields``.

        Raises:
            ApiError: 404 when there is no such bucket.
        """
        with self._lock:
            stat = self._bucket_directory(bucket).stat()
            note = read_note(self._notes / bucket / "bucket.json")
            created = stat.st_ctime_ns // 1000
            return note or {"created_us": created, "updated_us": created, "metageneration": 1, "fields": {}}

    def update_bucket(self, bucket: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Replace a bucket's writable fields and return its notes."""
        with self._lock:
            now = time.time_ns() // 1000
            path = self._notes / bucket / "bucket.json"
            old = read_note(path)
            note = {
                "created_us": old["created_us"] if old else now,
                "updated_us": now,
                "metageneration": old["metageneration"] + 1 if old else 1,
                "fields": fields,
            }
            write_note(path, note)
            return note

    def buckets(self) -> list[str]:
        """Return the names of all buckets, in order."""
        entries = (entry.name for entry in os.scandir(self._root) if entry.is_dir())
        return sorted(name for name in entries if object_names.valid_bucket(name))

    def delete_bucket(self, bucket: str) -> None:
        """Delete an empty bucket.

        Raises:
            ApiError: 404 when there is none, 409 when it is not empty.
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
            shutil.rmtree(self._notes / bucket, ignore_errors=True)

    # Objects

    def read(self, bucket: str, name: str) -> StoredObject | None:
        """Return an object, or ``None`` when the bucket or the object does not exist."""
        with self._lock:
            path = self._find(bucket, name)
            return None if path is None else self._describe(bucket, name, path, path.stat())

    def open(self, bucket: str, name: str) -> tuple[StoredObject, BinaryIO] | None:
        """Return an object with its open file, which stays the same generation whatever happens next."""
        with self._lock:
            path = self._find(bucket, name)
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
            data: All bytes.
            content_type: Stored with the object; by default the name decides.
            if_generation_match: Only write when the object has this generation (0: when it does not exist).

        Raises:
            ApiError: 400 bad name, 404 no such bucket, 412 precondition not met.
        """

        def check(current: StoredObject | None) -> None:
            if if_generation_match is not None and if_generation_match != (current.generation if current else 0):
                raise ApiError(412, "At least one of the pre-conditions you specified did not hold.")

        temporary = self.temporary()
        temporary.write_bytes(data)
        fields = {"contentType": content_type} if content_type else {}
        return self.adopt(bucket, name, temporary, fields, check=check, digests=digest(data))

    def temporary(self) -> Path:
        """Return a fresh path for bytes that `adopt` makes an object later; gone at the next start."""
        return self._uploads / uuid.uuid4().hex

    def adopt(
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
        """Make a finished temporary file an object, at once and completely or not at all.

        Args:
            bucket: An existing bucket.
            name: Object name.
            temporary: File from `temporary`; it is gone afterwards, also after an error.
            fields: Writable metadata of the JSON API.
            check: Is shown the present object and raises ``ApiError`` to refuse.
            components: For a composed object the number of its parts.
            digests: MD5 and CRC32C of the bytes (base64), when the caller knows them.

        Raises:
            ApiError: 400 bad name, 404 no such bucket, or what ``check`` raises.
        """
        try:
            problem = object_names.name_problem(name)
            if problem:
                raise ApiError(400, problem)
            with self._lock:
                top = self._bucket_directory(bucket)
                if check is not None:
                    check(self.read(bucket, name))
                generation = max(self._last_generation + 1, time.time_ns() // 1000)
                self._last_generation = generation
                os.utime(temporary, ns=(generation * 1000, generation * 1000))
                target = self._make_room(top, object_names.to_parts(name))
                temporary.replace(target)
                note = note_of(name, generation, 1, generation, fields, components)
                self._keep_note(bucket, note)
                stored = self._describe(bucket, name, target, target.stat())
                if digests:
                    self._remember(stored, digests)
                return stored
        except OSError as problem:
            raise ApiError(400, f"This file system cannot hold the object: {problem.strerror}") from problem
        finally:
            temporary.unlink(missing_ok=True)

    def update(self, bucket: str, name: str, fields: dict[str, Any], check: Check | None = None) -> StoredObject:
        """Replace an object's writable metadata; its metageneration grows by one.

        Raises:
            ApiError: 404 when there is no such object, or what ``check`` raises.
        """
        with self._lock:
            old = self.read(bucket, name)
            if old is None:
                raise missing(bucket, name)
            if check is not None:
                check(old)
            changed = max(old.updated_us + 1, time.time_ns() // 1000)
            metageneration = old.metageneration + 1
            self._keep_note(bucket, note_of(name, old.generation, metageneration, changed, fields, old.components))
            return self._describe(bucket, name, old.path, old.path.stat())

    def delete(self, bucket: str, name: str, check: Check | None = None) -> None:
        """Delete an object; directories that it leaves empty go too.

        Raises:
            ApiError: 404 when there is no such object, or what ``check`` raises.
        """
        with self._lock:
            top = self._bucket_directory(bucket)
            old = self.read(bucket, name)
            if old is None:
                raise missing(bucket, name)
            if check is not None:
                check(old)
            old.path.unlink()
            self._note_path(bucket, name).unlink(missing_ok=True)
            for parent in old.path.parents:
                if parent == top:
                    break
                try:
                    parent.rmdir()
                except OSError:
                    break

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the names of a bucket's objects that start with ``prefix``, in order of UTF-8 bytes.

        Raises:
            ApiError: 404 when there is no such bucket.
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
        """Return an object's MD5 and CRC32C in base64, as Cloud Storage shows them."""
        with self._lock:
            known = self._digests.get(_digest_key(stored))
        if known is None:
            known = digest_of(stored.path)
            self._remember(stored, known)
        return known

    # Files

    def _bucket_directory(self, bucket: str) -> Path:
        directory = self._root / bucket
        if not object_names.valid_bucket(bucket) or not directory.is_dir():
            raise ApiError(404, "The specified bucket does not exist.")
        return directory

    def _find(self, bucket: str, name: str) -> Path | None:
        if not object_names.valid_bucket(bucket) or object_names.name_problem(name):
            return None
        path = self._root.joinpath(bucket, *object_names.to_parts(name))
        with contextlib.suppress(OSError):  # a name too long for this system is not there
            if path.is_file():
                return path
            beside = path.with_name(object_names.BESIDE + path.name)
            if beside.is_file():
                return beside
        return None

    def _make_room(self, top: Path, parts: Sequence[str]) -> Path:
        """Make the directories for an object; a file in their way moves beside its new directory."""
        target = top.joinpath(*parts)
        if not target.parent.is_dir():
            directory = top
            for part in parts[:-1]:
                directory = directory / part
                if directory.is_file():
                    directory.rename(directory.with_name(object_names.BESIDE + part))
                directory.mkdir(exist_ok=True)
        beside = target.with_name(object_names.BESIDE + target.name)
        if target.is_dir():
            return beside
        beside.unlink(missing_ok=True)
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
        note = read_note(self._note_path(bucket, name))
        if not note or note["generation"] != generation:  # of older bytes: a person replaced the file
            note = note_of(name, generation, 1, generation, {}, 0)
        return StoredObject(
            bucket=bucket,
            name=name,
            path=path,
            size=stat.st_size,
            generation=generation,
            metageneration=note["metageneration"],
            updated_us=note["updated_us"],
            fields=note["fields"],
            components=note["components"],
        )

    def _note_path(self, bucket: str, name: str) -> Path:
        key = hashlib.sha256(name.encode()).hexdigest()
        return self._notes / bucket / key[:2] / f"{key[2:]}.json"

    def _keep_note(self, bucket: str, note: dict[str, Any]) -> None:
        path = self._note_path(bucket, note["name"])
        fields = {key: value for key, value in note["fields"].items() if value not in (None, {}, "")}
        if fields.get("contentType") == guess_type(note["name"]):
            del fields["contentType"]
        if fields or note["components"] or note["metageneration"] != 1:
            write_note(path, note | {"fields": fields})
        else:  # the file itself says everything
            path.unlink(missing_ok=True)

    def _remember(self, stored: StoredObject, digests: tuple[str, str]) -> None:
        with self._lock:
            self._digests[_digest_key(stored)] = digests
            while len(self._digests) > REMEMBERED_DIGESTS:
                self._digests.popitem(last=False)


def missing(bucket: str, name: str) -> ApiError:
    """Return the 404 of an object."""
    return ApiError(404, f"No such object: {bucket}/{name}")


def _digest_key(stored: StoredObject) -> tuple[str, str, int, int]:
    return stored.bucket, stored.name, stored.generation, stored.size

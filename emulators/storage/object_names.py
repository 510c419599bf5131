"""Conversion between object names and file paths.

An ordinary name is used as the path, so that users can view, add and remove objects as files. Names that a file
system does not support (``a//b``, ``a/``, ``..``, a part of 300 bytes, both ``a`` and ``a/b``) are escaped.
"""

import re
from typing import Final
from urllib.parse import quote, unquote

#: Prefix of a percent-encoded part, which is not a valid file name.
ESCAPED: Final = "%!"
#: Prefix of a piece of a part that is too long for a file name; the next piece continues the part.
CONTINUATION: Final = "%!+"
#: Prefix of the file of an object ``a`` if there is a directory ``a`` (of an object ``a/b``).
SIBLING: Final = "%!="
#: Maximum length of a file name in bytes. File systems allow 255, encrypted ones fewer.
MAX_PART_BYTES: Final = 140
#: Maximum length of an object name in bytes of UTF-8.
MAX_NAME_BYTES: Final = 1024

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


def is_valid_bucket(name: str) -> bool:
    """Return whether Cloud Storage accepts a bucket name (3 to 222 characters, no ``..``)."""
    return _BUCKET.fullmatch(name) is not None and ".." not in name


def name_error(name: str) -> str | None:
    """Return the error message for an invalid object name, or None."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "The object name is not valid UTF-8."
    if not 1 <= size <= MAX_NAME_BYTES:
        return f"The object name must have 1 to {MAX_NAME_BYTES} bytes."
    if "\r" in name or "\n" in name:
        return "Disallowed unicode characters present in object name."
    if name in (".", ".."):
        return "An object cannot be named '.' or '..'."
    if name.startswith(".well-known/acme-challenge/"):
        return "An object name cannot start with '.well-known/acme-challenge/'."
    return None


def to_parts(name: str) -> list[str]:
    """Return the parts of the file path of an object. The path never leaves the bucket's directory."""
    return [piece for part in name.split("/") for piece in _encode(part)]


def from_parts(parts: list[str]) -> str | None:
    """Return the object name of a file path, or None for a file that is not an object."""
    parts = [*parts[:-1], parts[-1].removeprefix(SIBLING)]
    names: list[str] = []
    open_piece = ""
    for part in parts:
        if part.startswith(CONTINUATION):
            open_piece += part[len(CONTINUATION) :]
        elif part.startswith(ESCAPED):
            names.append(unquote(open_piece + part[len(ESCAPED) :]))
            open_piece = ""
        else:
            names.append(open_piece + part)
            open_piece = ""
    name = "/".join(names)
    return None if name_error(name) or to_parts(name) != parts else name


def _encode(part: str) -> list[str]:
    plain = part not in ("", ".", "..") and "\0" not in part and not part.startswith(ESCAPED)
    if plain and len(part.encode()) <= MAX_PART_BYTES:
        return [part]
    text = quote(part, safe=" !#$&'()*,:;@[]") if part.strip(".") else part.replace(".", "%2E")
    size = MAX_PART_BYTES - len(CONTINUATION)
    pieces = [text[start : start + size] for start in range(0, len(text), size)] or [""]
    return [CONTINUATION + piece for piece in pieces[:-1]] + [ESCAPED + pieces[-1]]

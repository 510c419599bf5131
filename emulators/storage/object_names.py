"""Object names as file paths, both ways.

An ordinary name is its own path, so that a person can look at, add and remove objects with a file
manager. Names that a file system cannot hold (``a//b``, ``a/``, ``..``, a part of 300 bytes, an object
``a`` beside an object ``a/b``) are written with a mark, and come back exactly as they were.
"""

import re
from typing import Final
from urllib.parse import quote, unquote

#: Starts a part that is spelled out (percent-encoded) because it cannot be a file name.
MARK: Final = "%!"
#: Starts a piece of a part that is too long for one file name; the next piece continues it.
CONTINUED: Final = "%!+"
#: Starts the file name of an object ``a`` that lives beside a directory ``a`` (of an object ``a/b``).
BESIDE: Final = "%!="
#: Longest file name that is used, in bytes (file systems allow 255, or less when they encrypt).
LONGEST_PART: Final = 140
#: Cloud Storage allows object names of 1 to 1024 bytes of UTF-8.
LONGEST_NAME: Final = 1024

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


def valid_bucket(name: str) -> bool:
    """Say whether Cloud Storage would take this bucket name (3 to 222 characters, no ``..``)."""
    return _BUCKET.fullmatch(name) is not None and ".." not in name


def name_problem(name: str) -> str | None:
    """Return why Cloud Storage refuses an object name, or ``None`` when it is fine."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "The object name is not valid UTF-8."
    if not 1 <= size <= LONGEST_NAME:
        return f"The object name must have 1 to {LONGEST_NAME} bytes."
    if "\r" in name or "\n" in name:
        return "Disallowed unicode characters present in object name."
    if name in (".", ".."):
        return "An object cannot be named '.' or '..'."
    if name.startswith(".well-known/acme-challenge/"):
        return "An object name cannot start with '.well-known/acme-challenge/'."
    return None


def to_parts(name: str) -> list[str]:
    """Return the file path of an object name as its parts; none of them can leave the bucket's directory."""
    return [piece for part in name.split("/") for piece in _encode(part)]


def from_parts(parts: list[str]) -> str | None:
    """Return the object name of a file path, or ``None`` for a file that is no object's."""
    parts = [*parts[:-1], parts[-1].removeprefix(BESIDE)]
    names: list[str] = []
    open_piece = ""
    for part in parts:
        if part.startswith(CONTINUED):
            open_piece += part[len(CONTINUED) :]
        elif part.startswith(MARK):
            names.append(unquote(open_piece + part[len(MARK) :]))
            open_piece = ""
        else:
            names.append(open_piece + part)
            open_piece = ""
    name = "/".join(names)
    return None if name_problem(name) or to_parts(name) != parts else name


def _encode(part: str) -> list[str]:
    plain = part not in ("", ".", "..") and "\0" not in part and not part.startswith(MARK)
    if plain and len(part.encode()) <= LONGEST_PART:
        return [part]
    text = quote(part, safe=" !#$&'()*,:;@[]") if part.strip(".") else part.replace(".", "%2E")
    size = LONGEST_PART - len(CONTINUED)
    pieces = [text[start : start + size] for start in range(0, len(text), size)] or [""]
    return [CONTINUED + piece for piece in pieces[:-1]] + [MARK + pieces[-1]]

"""The exceptions that imagebeam raises on purpose.

::

    ImagebeamError
    ├── UserError        a person's mistake: one line with what, where and how to mend it; exit code 2
    ├── SystemicError    the run cannot go on: credentials, model gone, API off; exit code 3, nothing is lost
    └── ReconciliationError       the books of a run do not balance; exit code 1

A problem of one image is no exception: it is that unit's outcome, with a status and a reason code.
"""

import json
import re
from typing import Final

#: What Google's clients put around a service's words: the request before, and the codes they hoped for after.
_REQUEST: Final = re.compile(r"(?:\d{3} )?(?:DELETE|GET|PATCH|POST|PUT) https?://\S+: (.*)", re.DOTALL)
_HOPED_FOR: Final = ": ('Request failed with status code'"


class ImagebeamError(Exception):
    """Base of every exception that imagebeam raises on purpose.

    Attributes:
        cause: What is wrong; the whole message where a remedy is part of it.
        permission: The permission that is missing; empty for none.
        fix: What mends it, often a command; empty where the cause says it.
    """

    exit_code = 1

    def __init__(self, cause: str = "", *, permission: str = "", fix: str = "") -> None:
        needs = f"it needs {permission}" if permission else ""
        super().__init__("; ".join(part for part in (cause, needs, fix) if part))
        self.cause = cause
        self.permission = permission
        self.fix = fix


class UserError(ImagebeamError):
    """A person's mistake. The message is one line: what is wrong, where, and how to mend it."""

    exit_code = 2


class SystemicError(ImagebeamError):
    """Something that every further call would meet too: the run drains and stops."""

    exit_code = 3


class ReconciliationError(ImagebeamError):
    """Units went missing or were counted twice: the run must not be called a success."""

    exit_code = 1


def first_line(error: object, limit: int = 400) -> str:
    """The first line of an error's text, cut: what a person can read in one line, without URLs and documents."""
    lines = [line.strip() for line in _words(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:limit]


def _words(error: object) -> str:
    """What a service said, out of an error of any of Google's clients; any other error as it is."""
    entries = getattr(error, "errors", None)
    for entry in entries if isinstance(entries, list | tuple) else ():
        if isinstance(entry, dict) and entry.get("message"):
            return str(entry["message"])
    found = _REQUEST.match(str(error))
    if found is None:
        return str(error)
    said = found[1].partition(_HOPED_FOR)[0]
    try:
        return str(json.JSONDecoder().raw_decode(said)[0]["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return said

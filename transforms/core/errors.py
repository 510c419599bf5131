"""The exceptions of imagebeam, and the exit codes of its commands.

::

    ImagebeamError
    ├── UserError            wrong input: one line with the problem, its location and the fix; exit code 2
    ├── SystemicError        the run cannot continue: credentials, retired model, disabled API; exit code 3
    └── ReconciliationError  the counts of a run do not reconcile; exit code 1

A problem of one image is not an exception: it is the unit's outcome, with a status and a reason code.
"""

import enum
import json
import re
from typing import Final, Self

#: Text that Google's clients add to a service's message: the request before it, the expected codes after it.
_REQUEST: Final = re.compile(r"(?:\d{3} )?(?:DELETE|GET|PATCH|POST|PUT) https?://\S+: (.*)", re.DOTALL)
_EXPECTED: Final = ": ('Request failed with status code'"


class ExitCode(enum.IntEnum):
    """Exit codes of every command.

    Attributes:
        meaning: What it means, in a few words.
    """

    meaning: str

    OK = 0, "ok"
    FAILED = 1, "counts do not reconcile or internal error"
    INVALID_INPUT = 2, "invalid input"
    SYSTEMIC = 3, "systemic stop (credentials, permissions, model)"
    BUDGET = 4, "budget"
    FAILURES = 5, "too many failures"
    INTERRUPTED = 130, "interrupted"

    def __new__(cls, code: int, meaning: str) -> Self:
        """Create a member with its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class ImagebeamError(Exception):
    """Base of the exceptions of imagebeam.

    Attributes:
        cause: The problem; may include the fix.
        permission: The missing permission; empty for none.
        fix: How to fix it, often a command; empty if the cause includes it.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, cause: str = "", *, permission: str = "", fix: str = "") -> None:
        needs = f"it needs {permission}" if permission else ""
        super().__init__("; ".join(part for part in (cause, needs, fix) if part))
        self.cause = cause
        self.permission = permission
        self.fix = fix


class UserError(ImagebeamError):
    """Wrong input by the user. The message is one line: the problem, its location, and the fix."""

    exit_code = ExitCode.INVALID_INPUT


class SystemicError(ImagebeamError):
    """A failure that would affect every further call: the run drains and stops."""

    exit_code = ExitCode.SYSTEMIC


class ReconciliationError(ImagebeamError):
    """Units are missing or were counted twice: the run must not be reported as a success."""


def first_line(error: object, limit: int = 400) -> str:
    """Return the first line of an error's message, truncated, without URLs and error documents."""
    lines = [line.strip() for line in _words(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:limit]


def _words(error: object) -> str:
    """Return the service's message from an error of any of Google's clients; the text of any other error."""
    entries = getattr(error, "errors", None)
    for entry in entries if isinstance(entries, list | tuple) else ():
        if isinstance(entry, dict) and entry.get("message"):
            return str(entry["message"])
    found = _REQUEST.match(str(error))
    if found is None:
        return str(error)
    message = found[1].partition(_EXPECTED)[0]
    try:
        return str(json.JSONDecoder().raw_decode(message)[0]["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return message

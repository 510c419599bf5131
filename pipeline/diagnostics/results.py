"""Results of checks: their exit code, and how they are shown as text and JSON."""

from __future__ import annotations

import dataclasses
import enum
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from imagebeam.transforms.core.errors import ExitCode


class State(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"
    """It did not run: a check that it needs failed, or the user turned it off."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: Name of the check.
        state: How it ended.
        tried: What the check did.
        found: What it found.
        cause: Why the state is not ok; empty if it is.
        permission: The missing permission and the role that contains it; empty for none.
        fix: A command or flag that fixes it; empty if the cause contains it.
        systemic: A failure that the user cannot fix: a service cannot be used.
    """

    name: str
    state: State
    tried: str
    found: str = ""
    cause: str = ""
    permission: str = ""
    fix: str = ""
    systemic: bool = False


#: Columns of the state: its longest value and a space.
_STATE_WIDTH: Final = 8
_LABEL_WIDTH: Final = 11


def exit_code(results: Sequence[CheckResult]) -> int:
    """Return 0 if nothing failed, 2 if the user must fix something, 3 if only services cannot be used."""
    failed = [result for result in results if result.state is State.FAILURE]
    if not failed:
        return ExitCode.OK
    return ExitCode.SYSTEMIC if all(result.systemic for result in failed) else ExitCode.INVALID_INPUT


def summary_line(results: Sequence[CheckResult]) -> str:
    """Return one line: whether a run may start, and the number of results by state.

    >>> summary_line([CheckResult("task", State.OK, "read it")])
    'ready: 1 ok'
    """
    counts = Counter(result.state for result in results)
    states = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    return f"{'not ready' if exit_code(results) else 'ready'}: {states}"


def format_results(results: Sequence[CheckResult], columns: int, *, quiet: bool = False) -> list[str]:
    """Format one line per check, details below warnings and failures, and the summary line last.

    Args:
        results: In the order of the checks.
        columns: Width of the terminal; commands are never wrapped.
        quiet: Leave out checks that are ok.
    """
    width = max((len(result.name) for result in results), default=0)
    lines: list[str] = []
    for result in results:
        if quiet and result.state is State.OK:
            continue
        head = f"{result.state.value:<{_STATE_WIDTH}} {result.name:<{width}}"
        detail = result.cause if result.state is State.SKIPPED else result.found
        lines += _wrap(f"{head}  ", detail, columns) if detail.strip() else [head.rstrip()]
        if result.state in (State.WARNING, State.FAILURE):
            for label in ("tried", "cause", "permission"):
                if text := getattr(result, label).strip():
                    lines += _wrap(f"{'':<{_STATE_WIDTH}} {label:<{_LABEL_WIDTH}}", text, columns)
            if result.fix:
                lines.append(f"{'':<{_STATE_WIDTH}} {'fix':<{_LABEL_WIDTH}}{result.fix}")
    return [*lines, *([""] if lines else []), summary_line(results)]


def build_document(results: Sequence[CheckResult], **more: Any) -> dict[str, Any]:
    """Return the results as JSON values: every field of each, the counts, and the exit code."""
    counts = Counter(result.state for result in results)
    code = exit_code(results)
    return {
        **more,
        "ready": code == 0,
        "exit_code": code,
        "counts": {state.value: counts[state] for state in State},
        "findings": [dataclasses.asdict(result) for result in results],
    }


def _wrap(head: str, text: str, columns: int) -> list[str]:
    # Names and commands stay whole, so that they can be copied.
    wrapped = textwrap.wrap(text, max(columns - len(head), 30), break_long_words=False, break_on_hyphens=False)
    return [head + wrapped[0], *(" " * len(head) + line for line in wrapped[1:])]

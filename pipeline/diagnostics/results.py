"""What checks found: one finding per check, the exit code that follows, and both ways to show it."""

from __future__ import annotations

import dataclasses
import enum
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final


class State(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"
    """It could not be tried: what it stands on failed, or a person said so."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found.

    Attributes:
        name: The check.
        state: How it ended.
        tried: What was done to find out.
        found: What was seen; the detail of a check that is ok.
        cause: Why it is no better; empty if ok.
        permission: The permission or role that is missing; empty for none.
        fix: What mends it: a command, or a flag; empty where the cause says it.
        systemic: A failure that nothing a person can change here mends: the service cannot be used.
    """

    name: str
    state: State
    tried: str
    found: str = ""
    cause: str = ""
    permission: str = ""
    fix: str = ""
    systemic: bool = False


#: Columns that the state takes: the longest word.
_STATE: Final = 8
_LABEL: Final = 11


def exit_code(findings: Sequence[CheckResult]) -> int:
    """0 when nothing failed, 2 when a person must mend something, 3 when a service cannot be used."""
    failed = [finding for finding in findings if finding.state is State.FAILURE]
    if not failed:
        return 0
    return 3 if all(finding.systemic for finding in failed) else 2


def verdict(findings: Sequence[CheckResult]) -> str:
    """One line: how many of each, and whether a run may start.

    >>> verdict([CheckResult("task", State.OK, "read it")])
    'ready: 1 ok'
    """
    counts = Counter(finding.state for finding in findings)
    said = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    return f"{'not ready' if exit_code(findings) else 'ready'}: {said}"


def lines(findings: Sequence[CheckResult], columns: int, *, quiet: bool = False) -> list[str]:
    """One line per check, with what there is to say below those that are not ok; the verdict last.

    Args:
        findings: In the order of the checks.
        columns: Columns of the terminal; commands are never broken.
        quiet: Leave out what is ok.
    """
    width = max((len(finding.name) for finding in findings), default=0)
    shown: list[str] = []
    for finding in findings:
        if quiet and finding.state is State.OK:
            continue
        head = f"{finding.state.value:<{_STATE}} {finding.name:<{width}}"
        told = finding.cause if finding.state is State.SKIPPED else finding.found
        shown += _wrapped(f"{head}  ", told, columns)
        if finding.state in (State.WARNING, State.FAILURE):
            for label in ("tried", "cause", "permission"):
                shown += _wrapped(f"{'':<{_STATE}} {label:<{_LABEL}}", getattr(finding, label), columns, empty=False)
            if finding.fix:
                shown.append(f"{'':<{_STATE}} {'fix':<{_LABEL}}{finding.fix}")
    return [*shown, *([""] if shown else []), verdict(findings)]


def document(findings: Sequence[CheckResult], **more: Any) -> dict[str, Any]:
    """The same for machines: every finding with all its fields, the counts, and what a script asks for first."""
    counts = Counter(finding.state for finding in findings)
    code = exit_code(findings)
    return {
        **more,
        "ready": code == 0,
        "exit_code": code,
        "counts": {state.value: counts[state] for state in State},
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def _wrapped(head: str, text: str, columns: int, *, empty: bool = True) -> list[str]:
    if not text.strip():
        return [head.rstrip()] if empty else []
    # A name or a command that is longer than a line stays whole: somebody will copy it.
    wrapped = textwrap.wrap(text, max(columns - len(head), 30), break_long_words=False, break_on_hyphens=False)
    return [head + wrapped[0], *(" " * len(head) + line for line in wrapped[1:])]

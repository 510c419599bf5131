"""The reference of exit codes."""

from __future__ import annotations

from typing import Final

from docs.generate.markdown import NOTICE, paragraph, table
from imagebeam.pipeline.console.report import FAILURES_AFTER
from imagebeam.transforms.core.errors import ExitCode

#: What to do, by code.
_NEXT: Final = {
    ExitCode.OK: "Nothing. Units may have failed: query `dead_letters`.",
    ExitCode.FAILED: "A bug, if the counts do not reconcile: keep the run directory, and open an issue.",
    ExitCode.INVALID_INPUT: "Fix what the one line on standard error names. Nothing was called.",
    ExitCode.SYSTEMIC: "Fix the cause and run the same command again. Answers are kept.",
    ExitCode.BUDGET: "Raise `--max_cost_usd` or `--max_calls`, and run the command again. Answers are kept.",
    ExitCode.FAILURES: "Group `dead_letters` by reason; fix the cause and run the command again.",
    ExitCode.INTERRUPTED: "Run the same command again. Calls in flight were completed and recorded.",
}


def build_page() -> str:
    """Return the page as Markdown."""
    rows = ([f"`{code}`", code.meaning, _NEXT[code]] for code in ExitCode)
    notes = (
        paragraph(
            "`1` takes precedence over the reason for which a run stopped. `5` also applies to a run that ended",
            f"normally if more than `--max_failure_percent` of at least {FAILURES_AFTER} processed units failed, or if",
            "units were processed and none of them is OK, whatever their number.",
            "A closed pipe (`| head`) does not change the exit code.",
        ),
        paragraph(
            "`imagebeam preflight` exits with `0` if nothing failed (warnings are not failures), `2` if you must fix",
            "something, and `3` if a service cannot be used.",
        ),
    )
    return "\n".join(["# Exit codes\n", NOTICE, table(["code", "meaning", "what to do"], rows), *notes])

"""The report at the end of a run, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from imagebeam.transforms.core.errors import ExitCode
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Status
from imagebeam.transforms.core.text import format_usd

#: Exit code by the first word of the reason to stop; other reasons are systemic.
STOP_CODES: Mapping[str, ExitCode] = {
    "interrupted": ExitCode.INTERRUPTED,
    "budget": ExitCode.BUDGET,
    "failures": ExitCode.FAILURES,
}
#: With fewer units, the share of failures does not affect the exit code.
FAILURES_AFTER = 200


def format_report(summary: Mapping[str, Any], outcomes: TableName, *, took_s: float) -> list[str]:
    """Return the report of a run as lines: counts, calls, tokens, cost, and where the answers are."""
    counted, recorded = summary["counted"], summary["recorded"]
    usage = recorded["usage"]
    lines = list(summary["counts"])
    if without_images := summary["source"]["assets_without_images"]:
        lines.append(f"{without_images:>12,} assets of the source have no images: no calls were made for them")
    lines += [
        "",
        f"calls    {counted['calls']:,} ({counted['throttled']:,} rejected for quota) in {took_s:.1f} s",
        (
            f"tokens   {usage['prompt_tokens']:,} in ({usage['cached_tokens']:,} cached), "
            f"{usage['output_tokens']:,} out, {usage['thought_tokens']:,} thought"
        ),
        _cost_line(recorded["cost_usd"]),
        f"answers  {summary['answers']}",
    ]
    if counted["failed"]:
        lines.append(f"failures {TableName(outcomes.project, outcomes.dataset, 'dead_letters').dotted}")
    return lines


def _cost_line(usd: str | None) -> str:
    if usd is None:
        return "cost     unknown: the model has no price; use --price_as=MODEL, or add it to a --models_file"
    return f"cost     {format_usd(Decimal(usd))} at list price"


def format_state(summary: Mapping[str, Any]) -> str:
    """Return in one line how the run ended."""
    if summary["problems"]:
        return "COUNTS DO NOT RECONCILE: " + "; ".join(summary["problems"])
    if summary["stop"]:
        return f"stopped early ({summary['stop']}); answers are kept; run again to continue"
    if is_without_answer(summary):
        failed = summary["counted"]["failed"]
        reasons = ", ".join(sorted(failed, key=failed.__getitem__, reverse=True))
        return f"NO UNIT WAS ANSWERED: all {sum(failed.values()):,} failed with {reasons}"
    return "all units accounted for"


def is_without_answer(summary: Mapping[str, Any]) -> bool:
    """Return whether units were processed and none of them is OK.

    Where other units of the source have answers, images that cannot be read do not count: they fail in every run.
    """
    counted, source = summary["counted"], summary["source"]
    answered_before = source["already_done"] or source["outdated"]
    failed = sum(
        count
        for reason, count in counted["failed"].items()
        if not (answered_before and reason.startswith(Status.IMAGE_ERROR))
    )
    return not counted["ok"] and failed > 0


def exit_code(summary: Mapping[str, Any], max_failure_percent: float | None) -> int:
    """Return the exit code of a run: 0, 1 if its counts do not reconcile, or the code of its reason to stop.

    It is 5 if no unit is OK, whatever their number; see :func:`is_without_answer`.

    Args:
        summary: The run's summary.
        max_failure_percent: Share of failures, in percent, above which the exit code is 5; None for no limit.
    """
    counted = summary["counted"]
    if summary["problems"]:
        return ExitCode.FAILED
    if summary["stop"]:
        return STOP_CODES.get(summary["stop"].partition(":")[0], ExitCode.SYSTEMIC)
    if is_without_answer(summary):
        return ExitCode.FAILURES
    failed = sum(counted["failed"].values())
    units = counted["ok"] + failed
    if max_failure_percent is not None and units >= FAILURES_AFTER and 100 * failed > max_failure_percent * units:
        return ExitCode.FAILURES
    return ExitCode.OK

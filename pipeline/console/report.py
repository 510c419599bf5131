"""What a run tells at its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from imagebeam.transforms.core.identifiers import TableName


def lines(summary: Mapping[str, Any], outcomes: TableName, *, took_s: float) -> list[str]:
    """The report of a run, a line each: books, calls, tokens, cost, and how to look."""
    counted, recorded, source = summary["counted"], summary["recorded"], summary["source"]
    usage = recorded["usage"]
    told = list(summary["counts"])
    without = source["assets_without_images"]
    if without:
        told.append(f"{without:>12,} assets of the source have no images: no calls were made for them")
    told.append("")
    told.append(f"calls    {counted['calls']:,} ({counted['throttled']:,} refused for quota) in {took_s:.1f} s")
    told.append(
        f"tokens   {usage['prompt_tokens']:,} in ({usage['cached_tokens']:,} cached), "
        f"{usage['output_tokens']:,} out, {usage['thought_tokens']:,} thought"
    )
    told.append(f"cost     ${float(recorded['cost_usd']):,.4f} at list price")
    told.append(f"answers  {summary['answers']}")
    if counted["failed"]:
        told.append(f"failures {TableName(outcomes.project, outcomes.dataset, 'dead_letters').dotted}")
    return told


def tell(summary: Mapping[str, Any], outcomes: TableName, *, took_s: float, as_document: bool) -> None:
    """Writes the end of a run to standard output: its report, or the whole summary as JSON."""
    if as_document:
        sys.stdout.write(json.dumps(summary, indent=2, default=str) + "\n")
        return
    for line in [*lines(summary, outcomes, took_s=took_s), state_line(summary)]:
        sys.stdout.write(line + "\n")


def state_line(summary: Mapping[str, Any]) -> str:
    """How the run ended, in one line."""
    if summary["problems"]:
        return "COUNTS DO NOT RECONCILE: " + "; ".join(summary["problems"])
    if summary["stop"]:
        return f"stopped early ({summary['stop']}); answers are kept; run again to continue"
    return "all units accounted for"

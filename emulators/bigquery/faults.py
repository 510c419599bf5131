"""Validation of the section ``bigquery`` of the fault configuration."""

from __future__ import annotations

from typing import Any

from imagebeam.emulators.bigquery.access import check_linked
from imagebeam.emulators.bigquery.ai.faults import check_ai_faults
from imagebeam.emulators.core.faults import check_keys


def check_faults(settings: dict[str, Any]) -> None:
    """Validate the section ``bigquery``.

    Raises:
        ValueError: A key or an action is unknown.
    """
    check_keys(settings, ("insert_failures", "rules", "ai", "linked"), "bigquery")
    check_linked(settings.get("linked", {}))
    check_ai_faults(settings.get("ai", {}))
    for rule in settings.get("insert_failures", ()):
        check_keys(rule, ("match", "times", "do", "message"), "bigquery.insert_failures")
        if rule.get("do") not in ("row_error", "http_503", "lost_answer"):
            raise ValueError(f"unknown do {rule.get('do')!r}: use row_error, http_503 or lost_answer")
    for rule in settings.get("rules", ()):
        check_keys(rule, ("match", "times", "do", "code", "message", "reason"), "bigquery.rules")
        if rule.get("do") != "http":
            raise ValueError(f"unknown do {rule.get('do')!r}: use http")

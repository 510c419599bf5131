"""The tables of preflight's checks and of IAM roles, from the registry of checks."""

from __future__ import annotations

from typing import Final

from docs.generate.markdown import code, table
from imagebeam.pipeline.diagnostics.iam_roles import ROLES
from imagebeam.pipeline.preflight.registry import CHECKS
from imagebeam.pipeline.preflight.runner import Check, Grant
from imagebeam.transforms.core.records import Lane

_READER: Final = "`roles/bigquery.dataViewer`"
_WRITER: Final = "`roles/bigquery.dataEditor`"
_RESULTS: Final = "the results dataset"
_ALWAYS: Final = "always"


def build_checks() -> str:
    """Return the table of checks."""
    rows = (
        [check.name, check.tries, check.cost, check.gate, "; ".join(map(_grant, check.grants)) or "none", check.fix]
        for check in CHECKS
    )
    return table(["check", "what it does", "cost", "also before", "permission", "fix"], rows)


def build_roles() -> str:
    """Return the table of roles: what they are granted on, to whom, when, and the checks that need them."""
    conditions: dict[tuple[str, str, str], list[str]] = {}
    checks: dict[tuple[str, str, str], list[str]] = {}
    for check in CHECKS:
        for grant in check.grants:
            for role in _merge({_role(permission) for permission in grant.permissions}):
                key = (_largest(role, grant.resource), grant.resource, grant.account or "yours")
                conditions.setdefault(key, []).append(grant.when or _lanes(check))
                checks.setdefault(key, []).append(check.name)
    rows = (
        [role, resource, account, _join(conditions[role, resource, account]), _join(checks[role, resource, account])]
        for role, resource, account in sorted(checks)
    )
    return table(["role", "on", "account", "when", "checked by"], rows)


def _role(permission: str) -> str:
    role, _ = ROLES.get(permission, ("", ""))
    return code(role) if role else f"permission `{permission}`"


def _merge(roles: set[str]) -> list[str]:
    """Drop the role of readers where that of writers is granted, too."""
    return sorted(roles - {_READER} if _WRITER in roles else roles)


def _largest(role: str, resource: str) -> str:
    """Return the role of writers for readers of the results dataset, who get it anyway."""
    return _WRITER if role == _READER and resource == _RESULTS else role


def _lanes(check: Check) -> str:
    lanes = [lane for lane in Lane if lane in check.lanes]
    return _ALWAYS if len(lanes) == len(Lane) else f"lanes {', '.join(lanes)}" if lanes[1:] else f"lane {lanes[0]}"


def _join(words: list[str]) -> str:
    return _ALWAYS if _ALWAYS in words else ", ".join(dict.fromkeys(words))


def _grant(grant: Grant) -> str:
    """Return permissions with their role and resource."""
    by_role: dict[str, list[str]] = {}
    for permission in grant.permissions:
        by_role.setdefault(ROLES.get(permission, ("", ""))[0], []).append(permission)
    of = f" for {grant.account}" if grant.account else ""
    when = f", {grant.when}" if grant.when else ""
    return "; ".join(
        f"{', '.join(names)} ({f'{code(role)} ' if role else ''}on {grant.resource}{of}){when}"
        for role, names in by_role.items()
    )

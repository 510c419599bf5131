"""Permissions and disabled APIs of the local Google Cloud: section ``access`` of the fault configuration.

::

    {"disabled_apis": ["dataflow.googleapis.com"],
     "denied": [{"permission": "storage.objects.get", "resource": "gs://frames", "who": "workers@"}]}

Everything is allowed until a rule denies it. ``resource`` and ``who`` are substrings of the full names
(``gs://bucket/object``, ``project:dataset.table``, ``projects/p``; e-mail addresses of accounts). A rule without them
applies to all. Errors have the wording of the service that returns them.
"""

import re
import threading
from collections.abc import Mapping
from typing import Any, Final

from imagebeam.emulators.core.faults import FaultConfig, check_keys
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.core.tokens import ACCOUNT, account_of

SECTION: Final = "access"
#: Project number of the local cloud's one project.
PROJECT_NUMBER: Final = "100000000001"
#: The service agent with which Vertex AI reads input files and writes the output of jobs.
VERTEX_AGENT: Final = f"service-{PROJECT_NUMBER}@gcp-sa-aiplatform.iam.gserviceaccount.com"

#: Display names of the services in error messages.
_TITLES: Final[Mapping[str, str]] = {
    "aiplatform.googleapis.com": "Vertex AI API",
    "bigquery.googleapis.com": "BigQuery API",
    "cloudresourcemanager.googleapis.com": "Cloud Resource Manager API",
    "dataflow.googleapis.com": "Dataflow API",
    "iamcredentials.googleapis.com": "IAM Service Account Credentials API",
    "storage.googleapis.com": "Cloud Storage JSON API",
}
_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"


class Access:
    """The current access rules. Thread-safe.

    Args:
        config: The fault configuration. Registers a check of its section ``access``.
    """

    def __init__(self, config: FaultConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._version = -1
        self._disabled: frozenset[str] = frozenset()
        self._denied: tuple[Mapping[str, str], ...] = ()
        config.register(SECTION, check_access)

    def require_api(self, service: str, project: str) -> None:
        """Check that the API of a service is enabled in a project.

        Raises:
            ApiError: 403 if it is disabled.
        """
        self._refresh()
        if service in self._disabled:
            raise api_disabled(service, project)

    def allows(self, permission: str, resource: str, who: str = ACCOUNT) -> bool:
        """Return whether an account has a permission on a resource."""
        self._refresh()
        return not any(
            rule["permission"] == permission and rule.get("resource", "") in resource and rule.get("who", "") in who
            for rule in self._denied
        )

    def require(self, permission: str, resource: str, who: str = ACCOUNT) -> None:
        """Check that an account has a permission on a resource.

        Raises:
            ApiError: 403, worded as the service words it.
        """
        if not self.allows(permission, resource, who):
            raise _refusal(permission, resource, who)

    def _refresh(self) -> None:
        if self._config.version == self._version:
            return
        with self._lock:
            version, section = self._config.version, self._config.section(SECTION)
            self._disabled = frozenset(section.get("disabled_apis", ()))
            self._denied = tuple(section.get("denied", ()))
            self._version = version


def caller(authorization: str | None) -> str:
    """Return the account of an ``Authorization`` header, or the default account if there is no token."""
    scheme, _, token = (authorization or "").partition(" ")
    return account_of(token) if scheme.lower() == "bearer" else ACCOUNT


def check_access(settings: dict[str, Any]) -> None:
    """Check the section ``access``; raise ``ValueError`` for an unknown key or value."""
    check_keys(settings, ("disabled_apis", "denied"), f"section {SECTION}")
    for name in settings.get("disabled_apis", ()):
        if name not in _TITLES:
            raise ValueError(f"unknown API {name!r}: use {', '.join(_TITLES)}")
    for rule in settings.get("denied", ()):
        check_keys(rule, ("permission", "resource", "who"), "access.denied")
        if not re.fullmatch(r"[a-z]+(\.[A-Za-z]+){2}", str(rule.get("permission", ""))):
            raise ValueError(f"unknown permission {rule.get('permission')!r}: use a name such as storage.objects.get")


def api_disabled(service: str, project: str) -> ApiError:
    """Return the 403 for a disabled API."""
    link = f"https://console.developers.google.com/apis/api/{service}/overview?project={project}"
    metadata = {"service": service, "consumer": f"projects/{project}", "activationUrl": link}
    return ApiError(
        403,
        f"{_TITLES[service]} has not been used in project {project} before or it is disabled. Enable it by visiting "
        f"{link} then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our "
        "systems and retry.",
        reason="accessNotConfigured",
        details=[{"@type": _INFO, "reason": "SERVICE_DISABLED", "domain": "googleapis.com", "metadata": metadata}],
    )


def _refusal(permission: str, resource: str, who: str) -> ApiError:
    service, kind, _ = permission.split(".")
    if service == "storage":
        what = "object" if kind == "objects" else "bucket"
        return ApiError(
            403,
            f"{who} does not have {permission} access to the Google Cloud Storage {what}. Permission '{permission}' "
            "denied on resource (or it may not exist).",
            reason="forbidden",
        )
    if service == "bigquery":
        return ApiError(403, f"Access Denied: {_bigquery(permission, resource)}", reason="accessDenied")
    metadata = {"permission": permission, "resource": resource}
    domain = f"{service}.googleapis.com"
    return ApiError(
        403,
        f"Permission '{permission}' denied on resource '//{domain}/{resource}' (or it may not exist).",
        details=[{"@type": _INFO, "reason": "IAM_PERMISSION_DENIED", "domain": domain, "metadata": metadata}],
    )


def _bigquery(permission: str, resource: str) -> str:
    if resource.startswith("projects/"):
        project = resource.removeprefix("projects/")
        return f"Project {project}: User does not have {permission} permission in project {project}."
    if permission == "bigquery.tables.getData":
        return (
            f"Table {resource}: User does not have permission to query table {resource}, or perhaps it does not exist."
        )
    what = "table" if "." in resource.partition(":")[2] else "dataset"
    return f"{what.capitalize()} {resource}: Permission {permission} denied on {what} {resource} (or it may not exist)."

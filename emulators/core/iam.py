"""The local IAM: service account impersonation and permission tests.

Implements ``generateAccessToken`` of ``iamcredentials.googleapis.com`` and ``projects.testIamPermissions`` of
``cloudresourcemanager.googleapis.com``. Section ``access`` of the fault configuration defines what is denied.
"""

import datetime as dt
import re
from typing import Final

from aiohttp import web

from imagebeam.emulators.core.access import Access, caller
from imagebeam.emulators.core.auth import authenticate
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.http import ApiError, json_response, read_json
from imagebeam.emulators.core.tokens import LIFETIME, new_token

#: Maximum number of permissions in one request.
MAX_PERMISSIONS: Final = 100
_LIFETIME: Final = re.compile(r"\d+s")


class IamService:
    """The IAM routes.

    Counters (branch ``iam``): ``calls`` by method.

    Args:
        project: ID of the only project.
        access: The access rules.
        counters: The counters.
    """

    def __init__(self, project: str, access: Access, counters: Counters) -> None:
        self._project = project
        self._access = access
        self._counters = counters

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/v1/projects/-/serviceAccounts/{account}:generateAccessToken", self._token),
            web.post("/v3/projects/{project}:testIamPermissions", self._test),
        ]

    async def _token(self, request: web.Request) -> web.StreamResponse:
        self._counters.add("iam", "calls", "generateAccessToken")
        authenticate(request)
        self._access.require_api("iamcredentials.googleapis.com", self._project)
        body, target = await read_json(request), request.match_info["account"]
        if not body.get("scope") or not _LIFETIME.fullmatch(str(body.get("lifetime") or "3600s")):
            raise ApiError(400, "Request contains an invalid argument: scope and lifetime.")
        account = caller(request.headers.get("Authorization"))
        self._access.require(
            "iam.serviceAccounts.getAccessToken", f"projects/{self._project}/serviceAccounts/{target}", account
        )
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=LIFETIME)
        return json_response({"accessToken": new_token(target), "expireTime": f"{expires:%Y-%m-%dT%H:%M:%SZ}"})

    async def _test(self, request: web.Request) -> web.StreamResponse:
        self._counters.add("iam", "calls", "testIamPermissions")
        authenticate(request)
        project = request.match_info["project"]
        self._access.require_api("cloudresourcemanager.googleapis.com", project)
        names = (await read_json(request)).get("permissions")
        if not isinstance(names, list) or not 0 < len(names) <= MAX_PERMISSIONS:
            raise ApiError(400, f"permissions must be a list of 1 to {MAX_PERMISSIONS}.")
        if project != self._project:
            raise ApiError(403, f"Project '{project}' not found or permission denied.")
        account = caller(request.headers.get("Authorization"))
        granted = [name for name in names if self._access.allows(str(name), f"projects/{project}", account)]
        return json_response({"permissions": granted} if granted else {})

"""What the local Google Cloud has of IAM: tokens for other accounts, and which permissions a caller has.

``iamcredentials.googleapis.com`` (``generateAccessToken``) and ``cloudresourcemanager.googleapis.com``
(``projects.testIamPermissions``); everybody may do what section ``access`` of the fault book does not deny.
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

#: Permissions that one call asks about at most.
MOST_PERMISSIONS: Final = 100
_LIFETIME: Final = re.compile(r"\d+s")


class IamService:
    """The routes.

    Counters (branch ``iam``): ``calls`` by method.

    Args:
        project: The project that exists.
        access: Who may do what.
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
        self._access.open("iamcredentials.googleapis.com", self._project)
        body, account = await read_json(request), request.match_info["account"]
        if not body.get("scope") or not _LIFETIME.fullmatch(str(body.get("lifetime") or "3600s")):
            raise ApiError(400, "Request contains an invalid argument: scope and lifetime.")
        who = caller(request.headers.get("Authorization"))
        self._access.require(
            "iam.serviceAccounts.getAccessToken", f"projects/{self._project}/serviceAccounts/{account}", who
        )
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=LIFETIME)
        return json_response({"accessToken": new_token(account), "expireTime": f"{expires:%Y-%m-%dT%H:%M:%SZ}"})

    async def _test(self, request: web.Request) -> web.StreamResponse:
        self._counters.add("iam", "calls", "testIamPermissions")
        authenticate(request)
        project = request.match_info["project"]
        self._access.open("cloudresourcemanager.googleapis.com", project)
        asked = (await read_json(request)).get("permissions")
        if not isinstance(asked, list) or not 0 < len(asked) <= MOST_PERMISSIONS:
            raise ApiError(400, f"permissions must be a list of 1 to {MOST_PERMISSIONS}.")
        if project != self._project:
            raise ApiError(403, f"Project '{project}' not found or permission denied.")
        who = caller(request.headers.get("Authorization"))
        granted = [name for name in asked if self._access.allows(str(name), f"projects/{project}", who)]
        return json_response({"permissions": granted} if granted else {})

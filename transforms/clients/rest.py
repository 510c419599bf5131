"""Google APIs that no installed client speaks for us: one call over google-auth."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import google.auth.transport.requests

from imagebeam.transforms.core.errors import SystemicError

TIMEOUT_S: Final = 60.0


def endpoint(service: str) -> str:
    """The address of a Google API, or the one that the environment names instead, in gcloud's own variable.

    Args:
        service: Its short name, such as ``iamcredentials``.
    """
    override = os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}")
    return (override or f"https://{service}.googleapis.com").rstrip("/")


def call(credentials: Any, method: str, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes one call.

    Args:
        credentials: Whose.
        method: HTTP method.
        url: Whole address.
        body: JSON body.

    Returns:
        The answer.

    Raises:
        RefusedError: It is an error.
        OSError: There is no answer.
    """
    with google.auth.transport.requests.AuthorizedSession(credentials) as session:
        answer = session.request(method, url, json=body, timeout=TIMEOUT_S)
    if answer.status_code != 200:
        raise RefusedError(f"{method} {url}: HTTP {answer.status_code}", answer.content)
    found: dict[str, Any] = answer.json()
    return found


class RefusedError(SystemicError):
    """A service that answered with an error.

    Args:
        said: What to say.
        body: Google's error document, as it came.
    """

    def __init__(self, said: str, body: bytes | str = "") -> None:
        super().__init__(said)
        self.body = body

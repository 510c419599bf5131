"""Authentication of requests by OAuth 2.0 access token."""

from aiohttp import web

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.core.tokens import is_token


def authenticate(request: web.Request) -> None:
    """Check the access token.

    Raises:
        ApiError: 401.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and is_token(token):
        return
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED" if token else "CREDENTIALS_MISSING",
        "domain": "googleapis.com",
        "metadata": {"service": "aiplatform.googleapis.com"},
    }
    problem = "invalid" if token else "missing required"
    raise ApiError(
        401,
        f"Request had {problem} authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        details=[info],
    )

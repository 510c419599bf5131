"""The throw-away service account, and the token endpoint that answers its signed requests."""

import time
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultBook, check_keys
from imagebeam.emulators.core.http import json_response

#: The local cloud's one project.
PROJECT: Final = "imagebeam-local"
#: Who the clients of the local cloud are.
ACCOUNT: Final = f"local@{PROJECT}.iam.gserviceaccount.com"
#: Seconds that a token lives.
LIFETIME: Final = 3600

_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_PREFIX: Final = "local-"


def write_credentials(path: Path, url: str) -> bytes:
    """Write a service-account key that is good for the local cloud only; return its public key (PEM).

    Args:
        path: File for the key; readable by its owner only. An earlier key there is used again.
        url: The server, whose ``/token`` the clients are to ask.
    """
    private = _earlier_key(path)
    if private is None:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    document = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "local",
        "private_key": pem.decode(),
        "client_email": ACCOUNT,
        "client_id": "100000000000000000001",
        "token_uri": f"{url}/token",
    }
    path.touch(mode=0o600)
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def is_token(token: str) -> bool:
    """Say whether an access token is one of the local cloud's, of this process or an earlier one, and still lives."""
    try:
        issued = int(token.removeprefix(_PREFIX).partition(".")[0], 16) / 1e9
    except ValueError:
        return False
    return token.startswith(_PREFIX) and 0 <= time.time() - issued < LIFETIME


def new_token(account: str = ACCOUNT) -> str:
    """Return an access token of an account."""
    token = f"{_PREFIX}{time.time_ns():x}"
    return token if account == ACCOUNT else f"{token}.{account.encode().hex()}"


def account_of(token: str) -> str:
    """Return whose access token it is."""
    _, _, account = token.partition(".")
    return bytes.fromhex(account).decode() if account and is_token(token) else ACCOUNT


class TokenService:
    """The OAuth 2.0 token endpoint for JWT bearer grants (RFC 7523), as google-auth uses it.

    Faults (section ``token``): ``{"fail": true}`` answers ``invalid_grant``, which google-auth reports as a
    `RefreshError`. Counters (branch ``token``): ``requests``.
    """

    def __init__(self, public_key: bytes, faults: FaultBook, counters: Counters) -> None:
        self._public_key = public_key
        self._faults = faults
        self._counters = counters
        faults.register("token", lambda settings: check_keys(settings, ("fail",), "section token"))

    def routes(self) -> list[web.RouteDef]:
        """Return the endpoint's one route."""
        return [web.post("/token", self._handle)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._counters.add("token", "requests")
        form = await request.post()
        if self._faults.section("token").get("fail"):
            return _refused("invalid_grant", "Invalid JWT Signature.")
        if form.get("grant_type") != _GRANT:
            return _refused("unsupported_grant_type", f"Only {_GRANT} is granted here.")
        try:
            claims: dict[str, Any] = jwt.decode(str(form.get("assertion", "")), certs=self._public_key)
        except ValueError as problem:
            return _refused("invalid_grant", f"Invalid JWT: {problem}")
        if claims.get("target_audience"):
            return _refused("invalid_request", "The local Google Cloud gives no identity tokens.")
        return json_response({"access_token": new_token(), "expires_in": LIFETIME, "token_type": "Bearer"})


def _earlier_key(path: Path) -> rsa.RSAPrivateKey | None:
    try:
        text = orjson.loads(path.read_bytes())["private_key"]
        key = serialization.load_pem_private_key(text.encode(), password=None)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key if isinstance(key, rsa.RSAPrivateKey) else None


def _refused(error: str, description: str) -> web.Response:
    return json_response({"error": error, "error_description": description}, code=400)

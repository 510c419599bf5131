"""The service account key of the local Google Cloud and the OAuth token endpoint that accepts it."""

import time
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig, check_keys
from imagebeam.emulators.core.http import json_response

#: ID of the only project of the local cloud.
PROJECT: Final = "imagebeam-local"
#: Account of the clients of the local cloud.
ACCOUNT: Final = f"local@{PROJECT}.iam.gserviceaccount.com"
#: Lifetime of a token in seconds.
LIFETIME: Final = 3600

_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_PREFIX: Final = "local-"


def write_credentials(path: Path, url: str) -> bytes:
    """Write a service account key that is valid for the local cloud only; return its public key (PEM).

    Args:
        path: Key file, readable by its owner only. An existing key is reused.
        url: URL of the server, whose ``/token`` issues the tokens.
    """
    private = _existing_key(path)
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
    """Return whether an access token was issued by a local cloud, also an earlier process, and has not expired."""
    try:
        issued = int(token.removeprefix(_PREFIX).partition(".")[0], 16) / 1e9
    except ValueError:
        return False
    return token.startswith(_PREFIX) and 0 <= time.time() - issued < LIFETIME


def new_token(account: str = ACCOUNT) -> str:
    """Issue an access token for an account."""
    token = f"{_PREFIX}{time.time_ns():x}"
    return token if account == ACCOUNT else f"{token}.{account.encode().hex()}"


def account_of(token: str) -> str:
    """Return the account of an access token."""
    _, _, account = token.partition(".")
    return bytes.fromhex(account).decode() if account and is_token(token) else ACCOUNT


class TokenService:
    """The OAuth 2.0 token endpoint for JWT bearer grants (RFC 7523) that google-auth uses.

    Faults (section ``token``): ``{"fail": true}`` returns ``invalid_grant``, which google-auth reports as a
    `RefreshError`. Counters (branch ``token``): ``requests``.
    """

    def __init__(self, public_key: bytes, faults: FaultConfig, counters: Counters) -> None:
        self._public_key = public_key
        self._faults = faults
        self._counters = counters
        faults.register("token", lambda settings: check_keys(settings, ("fail",), "section token"))

    def routes(self) -> list[web.RouteDef]:
        """Return the route."""
        return [web.post("/token", self._handle)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._counters.add("token", "requests")
        form = await request.post()
        if self._faults.section("token").get("fail"):
            return _oauth_error("invalid_grant", "Invalid JWT Signature.")
        if form.get("grant_type") != _GRANT:
            return _oauth_error("unsupported_grant_type", f"Only {_GRANT} is supported.")
        try:
            claims: dict[str, Any] = jwt.decode(str(form.get("assertion", "")), certs=self._public_key)
        except ValueError as problem:
            return _oauth_error("invalid_grant", f"Invalid JWT: {problem}")
        if claims.get("target_audience"):
            return _oauth_error("invalid_request", "The local Google Cloud does not issue identity tokens.")
        return json_response({"access_token": new_token(), "expires_in": LIFETIME, "token_type": "Bearer"})


def _existing_key(path: Path) -> rsa.RSAPrivateKey | None:
    try:
        text = orjson.loads(path.read_bytes())["private_key"]
        key = serialization.load_pem_private_key(text.encode(), password=None)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key if isinstance(key, rsa.RSAPrivateKey) else None


def _oauth_error(error: str, description: str) -> web.Response:
    return json_response({"error": error, "error_description": description}, code=400)

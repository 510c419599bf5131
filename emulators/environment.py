"""The environment that points unchanged Google clients at the local cloud, and what speaks against it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Variables that would send some client elsewhere, or that name real credentials.
FOREIGN: Final = (
    "STORAGE_EMULATOR_HOST",
    "BIGQUERY_EMULATOR_HOST",
    "PUBSUB_EMULATOR_HOST",
    "GOOGLE_VERTEX_BASE_URL",
    "GOOGLE_APPLICATION_CREDENTIALS",
)


def environment_of(url: str, project: str, directory: Path) -> dict[str, str]:
    """Return the variables under which every Google client talks to the local cloud.

    Args:
        url: ``http://127.0.0.1:<port>`` of the server.
        project: The project that exists there.
        directory: State directory with ``credentials.json``.
    """
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), url)  # it refuses every CONNECT: nothing gets out
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return {
        "STORAGE_EMULATOR_HOST": url,
        "BIGQUERY_EMULATOR_HOST": url,
        "GOOGLE_VERTEX_BASE_URL": url,
        # The names by which gcloud knows other addresses of these services; no client reads them by itself.
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER": f"{url}/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS": f"{url}/",
        "GOOGLE_APPLICATION_CREDENTIALS": str(directory / "credentials.json"),
        "GOOGLE_CLOUD_PROJECT": project,
        "NO_GCE_CHECK": "true",  # google-auth must not look for a metadata server
        **proxies,
        **direct,
    }


def objection(environment: Mapping[str, str], directory: Path, home: Path) -> str | None:
    """Return why the local cloud should not start here, with the remedy, or ``None``.

    Somebody who works with real credentials in the same shell must not mix the two up.

    Args:
        environment: The process's environment.
        directory: State directory of the local cloud to be.
        home: The person's home directory.
    """
    for name in FOREIGN:
        value = environment.get(name)
        if not value or value.startswith("http://127.0.0.1:"):
            continue
        if name == "GOOGLE_APPLICATION_CREDENTIALS" and _is_throw_away(Path(value), directory):
            continue
        return f"{name} is set to {value}: run `unset {name}` first, or add --force"
    gcloud = environment.get("CLOUDSDK_CONFIG")
    adc = (Path(gcloud) if gcloud else home / ".config" / "gcloud") / "application_default_credentials.json"
    if adc.exists():
        return f"real Google credentials are in {adc}: add --force, and they stay unused"
    return None


def _is_throw_away(key: Path, directory: Path) -> bool:
    """Say whether a key file is of this or another local cloud, and so opens nothing real."""
    if key.absolute() == directory.absolute() / "credentials.json":
        return True
    try:
        address = json.loads(key.read_bytes())["token_uri"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return str(address).startswith("http://127.0.0.1:")

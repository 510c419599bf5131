"""Environment variables that direct unmodified Google clients to the local cloud, and conflicting settings."""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Variables that direct a client elsewhere or name real credentials.
FOREIGN: Final = (
    "STORAGE_EMULATOR_HOST",
    "BIGQUERY_EMULATOR_HOST",
    "PUBSUB_EMULATOR_HOST",
    "GOOGLE_VERTEX_BASE_URL",
    "GOOGLE_GEMINI_BASE_URL",
    "GOOGLE_APPLICATION_CREDENTIALS",
)
#: Directory with the program ``gcloud``, in the state directory.
PROGRAMS: Final = "bin"

#: Path of Vertex AI on the server. google-genai reads project and location from the environment only if its base URL
#: ends like that of Google.
VERTEX_PATH: Final = "/aiplatform.googleapis.com"


def environment_of(url: str, project: str, directory: Path) -> dict[str, str]:
    """Return the variables that direct every Google client and gcloud to the local cloud.

    Args:
        url: URL of the server, ``http://127.0.0.1:<port>``.
        project: ID of its only project.
        directory: State directory with ``credentials.json``.
    """
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), url)  # the server rejects every CONNECT
    programs, path = directory / PROGRAMS, os.environ.get("PATH", os.defpath).split(os.pathsep)
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return {
        "STORAGE_EMULATOR_HOST": url,
        "BIGQUERY_EMULATOR_HOST": url,
        "GOOGLE_VERTEX_BASE_URL": f"{url}{VERTEX_PATH}",
        # Endpoint overrides of gcloud for these services. Client libraries do not read them.
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER": f"{url}/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS": f"{url}/",
        "GOOGLE_APPLICATION_CREDENTIALS": str(directory / "credentials.json"),
        "GOOGLE_CLOUD_PROJECT": project,
        # For a google-genai client without arguments: it uses Vertex AI, but reads the other base URL. Batch jobs with
        # tables need a region.
        "GOOGLE_GENAI_USE_VERTEXAI": "True",
        "GOOGLE_GEMINI_BASE_URL": f"{url}{VERTEX_PATH}",
        "GOOGLE_CLOUD_LOCATION": "us-central1",
        # The program gcloud of the local cloud comes first, and the user's login is out of reach of any other.
        "PATH": os.pathsep.join([str(programs), *(part for part in path if part != str(programs))]),
        "CLOUDSDK_CONFIG": str(directory / "gcloud"),
        "CLOUDSDK_CORE_PROJECT": project,
        "NO_GCE_CHECK": "true",  # google-auth must not contact a metadata server
        **proxies,
        **direct,
    }


def write_program(directory: Path) -> None:
    """Write the program ``gcloud`` of the local cloud and the folder of its settings.

    Args:
        directory: State directory.
    """
    program = directory / PROGRAMS / "gcloud"  # see gcloud/program.py
    program.parent.mkdir(exist_ok=True)
    (directory / "gcloud").mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-m", "imagebeam.emulators.gcloud.program", str(directory.absolute())]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)


def find_conflict(environment: Mapping[str, str], directory: Path, home: Path) -> str | None:
    """Return why the local cloud must not start here and how to fix it, or None.

    Prevents confusion of real and local credentials in the same shell.

    Args:
        environment: Environment of the process.
        directory: State directory of the new local cloud.
        home: Home directory of the user.
    """
    for name in FOREIGN:
        value = environment.get(name)
        if not value or value.startswith("http://127.0.0.1:"):
            continue
        if name == "GOOGLE_APPLICATION_CREDENTIALS" and _is_local_key(Path(value), directory):
            continue
        return f"{name} is set to {value}: run `unset {name}` first, or add --force"
    gcloud = environment.get("CLOUDSDK_CONFIG")
    adc = (Path(gcloud) if gcloud else home / ".config" / "gcloud") / "application_default_credentials.json"
    if adc.exists():
        return f"real Google credentials are in {adc}: add --force to start anyway (they are not used)"
    return None


def _is_local_key(key: Path, directory: Path) -> bool:
    """Return whether a key file belongs to this or another local cloud, that is, is not a real credential."""
    if key.absolute() == directory.absolute() / "credentials.json":
        return True
    try:
        address = json.loads(key.read_bytes())["token_uri"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return str(address).startswith("http://127.0.0.1:")

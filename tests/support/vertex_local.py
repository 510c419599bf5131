"""Images in the local Cloud Storage and calls to the local Vertex AI."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google.auth
import google.auth.transport.requests
import requests
from google import genai
from google.genai import types
from PIL import Image

from imagebeam.emulators.cloud import LocalCloud

MODEL = "gemini-3.5-flash-lite"
SCHEMA = {
    "type": "OBJECT",
    "properties": {
        "category": {"type": "STRING", "enum": ["SIGN", "POLE"]},
        "confidence": {"type": "NUMBER", "minimum": 0, "maximum": 1},
        "notes": {"type": "STRING", "nullable": True},
    },
    "required": ["category", "confidence"],
    "propertyOrdering": ["category", "confidence", "notes"],
}
JSON_CONFIG = {"responseMimeType": "application/json", "responseSchema": SCHEMA}


def picture(kind: str = "JPEG", size: tuple[int, int] = (160, 120)) -> bytes:
    """Return an image with a gradient."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, kind)
    return stream.getvalue()


@dataclass(frozen=True)
class Place:
    """A bucket and an access token."""

    cloud: LocalCloud
    bucket: str
    token: str

    def put(self, name: str, data: bytes | None = None) -> str:
        """Store an object and return its URI."""
        path = self.cloud.directory / "storage" / self.bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture() if data is None else data)
        return f"gs://{self.bucket}/{name}"

    def post(
        self,
        body: Any,
        *,
        method: str = "generateContent",
        model: str = MODEL,
        location: str = "global",
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        """Send a request without a client, which would correct it."""
        path = f"v1/projects/{self.cloud.project}/locations/{location}/publishers/google/models/{model}:{method}"
        sent = {"Authorization": f"Bearer {self.token}"} | (headers or {})
        return requests.post(f"{self.cloud.url}/{path}", json=body, headers=sent, timeout=120)


def open_place(cloud: LocalCloud, bucket: str) -> Place:
    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(google.auth.transport.requests.Request())
    directory: Path = cloud.directory / "storage" / bucket
    directory.mkdir(parents=True)
    return Place(cloud, bucket, str(credentials.token))


def gemini(cloud: LocalCloud, location: str = "global") -> genai.Client:
    options = types.HttpOptions(api_version="v1", retry_options=types.HttpRetryOptions(attempts=1))
    return genai.Client(vertexai=True, project=cloud.project, location=location, http_options=options)


def file_part(uri: str, mime_type: str = "image/jpeg") -> dict[str, Any]:
    return {"fileData": {"fileUri": uri, "mimeType": mime_type}}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": [{"text": part} if isinstance(part, str) else part for part in parts]}]

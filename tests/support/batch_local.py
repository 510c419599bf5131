"""Batch jobs of the local Vertex AI through the unmodified google-genai client."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import requests
from google import genai
from google.cloud.storage import Client
from google.genai import types
from support.vertex_local import JSON_CONFIG, MODEL, Place, file_part, user

TERMINAL = {
    f"JOB_STATE_{state}"
    for state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PAUSED", "MELTED")
}


def request_of(uri: str, prompt: str = "Which is it?") -> dict[str, Any]:
    return {"contents": user(file_part(uri), prompt), "generationConfig": JSON_CONFIG}


def line_of(key: str, uri: str, **more: Any) -> dict[str, Any]:
    return {"custom_id": key, "request": request_of(uri), **more}


def jsonl(lines: Iterable[Any]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


@dataclass(frozen=True)
class Bench:
    """A bucket, an access token and a client for one location."""

    place: Place
    client: genai.Client
    location: str = "global"

    def submit(self, name: str, lines: Sequence[Any] | bytes, model: str = MODEL, dest: str | None = None) -> str:
        """Store an input file and create a job; return the job's name."""
        data = lines if isinstance(lines, bytes) else jsonl(lines)
        source = self.place.put(f"in/{name}.jsonl", data)
        return self.create(name, source, dest or f"gs://{self.place.bucket}/out/{name}", model)

    def create(self, name: str, source: str, dest: str, model: str = MODEL) -> str:
        config = types.CreateBatchJobConfig(display_name=name, dest=dest)
        return str(self.client.batches.create(model=model, src=source, config=config).name)

    def get(self, name: str) -> dict[str, Any]:
        """Return the raw resource. The client cannot parse error details."""
        found: dict[str, Any] = self.call("GET", name.rpartition("/")[2]).json()
        return found

    def call(self, method: str, path: str = "", **more: Any) -> requests.Response:
        cloud = self.place.cloud
        jobs = f"{cloud.url}/v1/projects/{cloud.project}/locations/{self.location}/batchPredictionJobs"
        headers = {"Authorization": f"Bearer {self.place.token}"}
        return requests.request(method, f"{jobs}/{path}".rstrip("/"), headers=headers, timeout=120, **more)

    def wait(self, name: str, state: str | None = None) -> dict[str, Any]:
        """Wait until a job has a state. Default: a final state."""
        for _ in range(12_000):  # four minutes
            job = self.get(name)
            if job["state"] == f"JOB_STATE_{state}" or (state is None and job["state"] in TERMINAL):
                return job
            time.sleep(0.02)
        raise AssertionError(job)

    def run(self, name: str, lines: Sequence[Any] | bytes, **more: Any) -> dict[str, Any]:
        return self.wait(self.submit(name, lines, **more))

    def names(self, job: dict[str, Any]) -> list[str]:
        """Return the names of a job's objects below its directory."""
        bucket, _, prefix = job["outputInfo"]["gcsOutputDirectory"].removeprefix("gs://").partition("/")
        return [blob.name.removeprefix(f"{prefix}/") for blob in Client().list_blobs(bucket, prefix=prefix)]

    def raw(self, job: dict[str, Any], name: str = "predictions.jsonl") -> bytes:
        bucket, _, prefix = job["outputInfo"]["gcsOutputDirectory"].removeprefix("gs://").partition("/")
        data: bytes = Client().bucket(bucket).blob(f"{prefix}/{name}").download_as_bytes()
        return data

    def output(self, job: dict[str, Any], name: str = "predictions.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw(job, name).splitlines()]

    def pictures(self, count: int) -> list[str]:
        return [self.place.put(f"pictures/{number:03d}.jpg") for number in range(count)]

    def some(self, count: int) -> list[dict[str, Any]]:
        """Return lines about images that do not exist, for the synthetic mode."""
        return [line_of(f"k-{number:03d}", f"gs://nowhere/{number:03d}.jpg") for number in range(count)]

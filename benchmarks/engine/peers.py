"""Alternative implementations, written as their documentation or common advice suggests.

They parse and count the answers, but do not record them.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import aiohttp
import apache_beam as beam
import google.auth
import google.auth.transport.requests
import orjson
import tenacity
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.ml.inference.gemini_inference import GeminiModelHandler
from apache_beam.options.pipeline_options import PipelineOptions
from google import genai
from google.genai import errors, types

from benchmarks.engine.metrics import Progress
from benchmarks.engine.workload import LOCATION, Work

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
POOL = 64
#: The fastest of 64, 256, 512 and 1,536 (26, 42, 50 and 56 images/s at 1 s), because every batch ends with a wait.
BATCH = 1_536

#: OutcomeCounts of the pipeline that runs in this process; a DoFn is a copy, a module is not.
_progress = Progress()


def _configuration(work: Work) -> types.GenerateContentConfig:
    """Return the generation settings of imagebeam's requests for google-genai."""
    body = work.body(work.all_units()[0])
    config = types.GenerateContentConfig.model_validate(body["generationConfig"])
    system = body.get("systemInstruction")
    if system:
        config.system_instruction = system["parts"][0]["text"]
    return config


def _uri(work: Work) -> Iterator[str]:
    return (str(unit.images[0].uri) for unit in work.all_units())


def _contents(uri: str, prompt: str) -> list[Any]:
    return [types.Part.from_uri(file_uri=uri, mime_type="image/jpeg"), prompt]


def _generate(client: genai.Client, uri: str, model: str, prompt: str, config: types.GenerateContentConfig) -> Any:
    answer = client.models.generate_content(model=model, contents=_contents(uri, prompt), config=config)
    return json.loads(answer.text or "")


def _is_retryable(error: BaseException) -> bool:
    return not isinstance(error, errors.APIError) or error.code in (408, 429, 500, 502, 503, 504)


_retrying = tenacity.retry(
    wait=tenacity.wait_random_exponential(multiplier=1, max=60),
    stop=tenacity.stop_after_attempt(6),
    retry=tenacity.retry_if_exception(_is_retryable),
    reraise=True,
)


class _Peer:
    """Base class: the request settings for a google-genai client."""

    def __init__(self, work: Work, project: str) -> None:
        self.work = work
        self.project = project
        self.model = work.task.model
        self.prompt = work.task.prompt
        self.config = _configuration(work)
        self.uris = list(_uri(work))


class SeedLoop(_Peer):
    """A sequential loop. Every error becomes the answer "Classification failed."."""

    def run(self, progress: Progress) -> None:
        """Do the work."""
        client = genai.Client(vertexai=True, project=self.project, location=LOCATION)
        for uri in self.uris:
            try:
                _generate(client, uri, self.model, self.prompt, self.config)
            except Exception:
                progress.add(1, 0)
            else:
                progress.add(1, 1)


class Inference(_Peer):
    """Beam's RunInference with GeminiModelHandler and one image per batch; larger batches lose rows."""

    threads = 1

    def run(self, progress: Progress) -> None:
        """Do the work."""
        handler = GeminiModelHandler(
            self.model,
            _InferenceRequest(self.prompt, self.config),
            project=self.project,
            location=LOCATION,
            min_batch_size=1,
            max_batch_size=1,
        )
        _pipeline(self.uris, RunInference(handler) | beam.Map(_predicted), progress, self.threads)


class ThreadedInference(Inference):
    """RunInference with 16 workers of the local runner."""

    threads = 16


class _InferenceRequest:
    def __init__(self, prompt: str, config: types.GenerateContentConfig) -> None:
        self._prompt = prompt
        self._config = config

    def __call__(
        self, model_name: str, batch: Sequence[str], model: genai.Client, inference_args: dict[str, Any]
    ) -> Any:
        return model.models.generate_content(
            model=model_name, contents=_contents(batch[0], self._prompt), config=self._config
        )


def _predicted(result: PredictionResult) -> Any:
    answer: Any = result.inference
    return json.loads(answer.text)


class NaiveParDo(_Peer):
    """A DoFn that calls the model in ``process``, with tenacity for retries."""

    def run(self, progress: Progress) -> None:
        """Do the work."""
        _pipeline(self.uris, beam.ParDo(_GenerateOne(self.project, self.model, self.prompt, self.config)), progress)


class _GenerateOne(beam.DoFn):
    def __init__(self, project: str, model: str, prompt: str, config: types.GenerateContentConfig) -> None:
        self._project = project
        self._request = (model, prompt, config)

    def setup(self) -> None:
        self._client = genai.Client(vertexai=True, project=self._project, location=LOCATION)

    def process(self, element: str) -> Iterator[Any]:
        yield _retrying(_generate)(self._client, element, *self._request)


class PoolPerBatch(_Peer):
    """BatchElements and a DoFn that processes a batch in 64 threads, with tenacity for retries."""

    def run(self, progress: Progress) -> None:
        """Do the work."""
        generate = _GenerateBatch(self.project, self.model, self.prompt, self.config)
        batches = beam.BatchElements(min_batch_size=min(BATCH, self.work.units), max_batch_size=BATCH)
        _pipeline(self.uris, batches | beam.ParDo(generate), progress)


class _GenerateBatch(_GenerateOne):
    def setup(self) -> None:
        super().setup()
        self._pool = ThreadPoolExecutor(POOL)

    def process(self, element: Any) -> Iterator[Any]:
        model, prompt, config = self._request
        generate = functools.partial(_retrying(_generate), self._client, model=model, prompt=prompt, config=config)
        yield from self._pool.map(generate, element)

    def teardown(self) -> None:
        self._pool.shutdown()


class _Count(beam.DoFn):
    def process(self, element: Any) -> Iterator[None]:
        _progress.add(1, 1)
        yield from ()


def _pipeline(uris: Sequence[str], call_settings: Any, progress: Progress, threads: int = 1) -> None:
    global _progress
    _progress = progress
    options = ["--direct_running_mode=multi_threading", f"--direct_num_workers={threads}"] if threads > 1 else []
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions(options)) as pipeline:
        _ = pipeline | beam.Create(uris) | beam.Reshuffle() | call_settings | beam.ParDo(_Count())


class TunedAsyncio(_Peer):
    """A tuned asyncio loop: one google-genai client on aiohttp with a window of calls."""

    def run(self, progress: Progress) -> None:
        """Do the work."""
        asyncio.run(self._all(progress))

    async def _all(self, progress: Progress) -> None:
        client = genai.Client(vertexai=True, project=self.project, location=LOCATION).aio
        uris = iter(self.uris)

        async def slot() -> None:
            for uri in uris:
                answer = await client.models.generate_content(
                    model=self.model, contents=_contents(uri, self.prompt), config=self.config
                )
                json.loads(answer.text or "")
                progress.add(1, 1)

        await asyncio.gather(*(slot() for _ in range(self.work.in_flight)))
        await client.aclose()


class Floor:
    """The lower bound: aiohttp posts prepared bodies with a window of calls and parses the JSON."""

    def __init__(self, work: Work, project: str) -> None:
        self._in_flight = work.in_flight
        self._bodies = [orjson.dumps(work.body(unit)) for unit in work.all_units()]
        credentials, _ = google.auth.default(scopes=SCOPES)
        credentials.refresh(google.auth.transport.requests.Request())
        self._headers = {
            "Authorization": f"Bearer {credentials.token}",
            "Content-Type": "application/json",
        }
        base = os.environ["GOOGLE_VERTEX_BASE_URL"]
        model = f"projects/{project}/locations/{LOCATION}/publishers/google/models/{work.task.model}"
        self._url = f"{base}/v1/{model}:generateContent"

    def run(self, progress: Progress) -> None:
        """Do the work."""
        asyncio.run(self._all(progress))

    async def _all(self, progress: Progress) -> None:
        bodies = iter(self._bodies)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=self._headers) as session:

            async def slot() -> None:
                for body in bodies:
                    async with session.post(self._url, data=body) as response:
                        orjson.loads(await response.read())
                        progress.add(1, int(response.status == 200))

            await asyncio.gather(*(slot() for _ in range(self._in_flight)))


def all_peers() -> dict[str, type[Any]]:
    """Return the implementations by name."""
    named = {
        "seed": SeedLoop,
        "run_inference": Inference,
        "run_inference_16": ThreadedInference,
        "naive_pardo": NaiveParDo,
        "thread_pool": PoolPerBatch,
        "genai_asyncio": TunedAsyncio,
        "floor": Floor,
    }
    return cast("dict[str, type[Any]]", named)

"""Vertex AI of the local Google Cloud: ``generateContent``, ``countTokens``, embeddings and the publisher models.

The model measures real pixels (`fake_model.image_stats`) and fills the response schema (`fake_model.schema_filler`).
Validation, token counts and errors follow Gemini. `vertex.faults` describes the failures that can be configured.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from imagebeam.emulators.core.access import caller
from imagebeam.emulators.core.auth import authenticate
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError, json_response, parse_object
from imagebeam.emulators.environment import VERTEX_PATH
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.answers import answer_body, token_count
from imagebeam.emulators.vertex.embedding_models import ImageDescriptors, embedding_model, find_embedding_model
from imagebeam.emulators.vertex.embeddings import Embeddings
from imagebeam.emulators.vertex.faults import MESSAGES, VertexFaults, build_error
from imagebeam.emulators.vertex.generate.images import ImageReader
from imagebeam.emulators.vertex.generate.text import generate_text
from imagebeam.emulators.vertex.generate.validation import BODY_BYTES, InputImage, Prompt, read_prompt
from imagebeam.emulators.vertex.models import find_model, traffic_type
from imagebeam.emulators.vertex.transport import corrupt_response, http_fault, simulate_latency
from imagebeam.emulators.vertex.tuned import TUNED_BASE, endpoint_list, endpoint_resource, model_resource

_PLACE: Final = "/{version}/projects/{project}/locations/{location}"
_MODEL: Final = "/publishers/google/models/{model}"
_ENDPOINTS: Final = "/endpoints"
#: The endpoint of a tuned model.
_ENDPOINT: Final = r"/endpoints/{endpoint:\d+}"
#: A tuned model, with or without a version. It has no methods: its endpoint has.
_TUNED_MODEL: Final = r"/models/{tuned:\d+(?:@[\w-]+)?}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class VertexService:
    """The routes of Vertex AI.

    Faults: section ``vertex``, see `vertex.faults`. Counters (branch ``vertex``): ``calls``, ``by_status``,
    ``per_uri``, ``answered_per_uri``, ``in_flight``, ``max_in_flight``, ``tokens`` and ``per_second`` (by Unix
    second) of ``generateContent``, ``predict`` and ``embedContent`` together; ``by_method`` of the last two;
    ``count_tokens_calls`` and ``model_gets`` of the others. An inline image counts as ``inline:<digest>``.
    ``answered_per_uri`` counts billed answers: those with usage that were sent to a caller who was still connected.

    Args:
        objects: The local Cloud Storage.
        project: Project of requests without a project.
        seed: Seed of the model and of random decisions.
        faults: The fault configuration.
        counters: The counters.

    Attributes:
        images: Measures and caches the images of requests.
        descriptors: Computes and caches the descriptors of images for embedding models.
    """

    def __init__(self, objects: ObjectStore, project: str, seed: int, faults: FaultConfig, counters: Counters) -> None:
        self._project = project
        self._seed = seed
        self._counters = counters
        self._faults = VertexFaults(faults, seed)
        self.images = ImageReader(objects)
        self.descriptors = ImageDescriptors(objects)
        self._embeddings = Embeddings(self.descriptors, self._faults, counters, self._authorize)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post(_PLACE + _MODEL + ":generateContent", self._handle_generate),
            web.post(_PLACE + _MODEL + ":countTokens", self._handle_count),
            web.post(_PLACE + _MODEL + ":predict", self._handle_predict),
            web.post(_PLACE + _MODEL + ":embedContent", self._handle_embed),
            web.get("/{version}" + _MODEL, self._handle_model, allow_head=False),
            web.get(_PLACE + _MODEL, self._handle_model, allow_head=False),
            web.post(_PLACE + _ENDPOINT + ":generateContent", self._handle_generate),
            web.post(_PLACE + _ENDPOINT + ":countTokens", self._handle_count),
            web.get(_PLACE + _ENDPOINT, self._handle_endpoint, allow_head=False),
            web.get(_PLACE + _ENDPOINTS, self._handle_endpoints, allow_head=False),
            web.get(_PLACE + _TUNED_MODEL, self._handle_tuned_model, allow_head=False),
        ]

    # Handlers

    async def _handle_generate(self, request: web.Request) -> web.StreamResponse:
        return await self._counted(request, self._generate)

    async def _handle_predict(self, request: web.Request) -> web.StreamResponse:
        return await self._counted(request, self._embeddings.predict)

    async def _handle_embed(self, request: web.Request) -> web.StreamResponse:
        return await self._counted(request, self._embeddings.embed_content)

    async def _counted(self, request: web.Request, method: Handler) -> web.StreamResponse:
        self._counters.add("vertex", "calls")
        self._counters.add("vertex", "per_second", str(int(time.time())))
        resets = self._counters.resets
        self._counters.add("vertex", "in_flight")
        self._counters.set_max("vertex", "max_in_flight", value=self._counters.get("vertex", "in_flight"))
        status = "501"  # the status that the server returns for an exception
        try:
            response = await self._run(request, method)
            status = str(response.status)
            if request.transport is None or request.transport.is_closing():
                status = "reset" if response.prepared else "499"
            return response
        finally:
            if self._counters.resets == resets:  # after a reset, only newer calls count
                self._counters.add("vertex", "in_flight", amount=-1)
            self._counters.add("vertex", "by_status", status)

    async def _handle_count(self, request: web.Request) -> web.StreamResponse:
        self._counters.add("vertex", "count_tokens_calls")
        return await self._run(request, self._count)

    async def _handle_model(self, request: web.Request) -> web.StreamResponse:
        self._counters.add("vertex", "model_gets")
        project, name, location = self._authorize(request)
        find = find_model if embedding_model(name) is None else find_embedding_model
        model = find(name, project, location, self._faults.retired)
        place = "projects/{user-project}/locations/{location}"
        name = f"publishers/google/models/{model.name}"
        return json_response(
            {
                "name": name,
                "versionId": "default",
                "openSourceCategory": "PROPRIETARY",
                "launchStage": "GA",
                "publisherModelTemplate": f"{place}/{name}@default",
            }
        )

    async def _handle_endpoint(self, request: web.Request) -> web.StreamResponse:
        project, location = self._authorize_resource(request, "aiplatform.endpoints.get")
        return json_response(endpoint_resource(project, location, request.match_info["endpoint"]))

    async def _handle_endpoints(self, request: web.Request) -> web.StreamResponse:
        if unknown := set(request.query) - {"pageSize", "pageToken", "$alt", "alt"}:
            raise ApiError(501, f"The local Vertex AI does not implement endpoints.list with {', '.join(unknown)}.")
        return json_response(endpoint_list(*self._authorize_resource(request, "aiplatform.endpoints.list")))

    async def _handle_tuned_model(self, request: web.Request) -> web.StreamResponse:
        project, location = self._authorize_resource(request, "aiplatform.models.get")
        return json_response(model_resource(project, location, request.match_info["tuned"]))

    async def _run(self, request: web.Request, method: Handler) -> web.StreamResponse:
        try:
            return await method(request)
        except ApiError as problem:
            return problem.response()

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        prompt, traffic = await self._read(request, counting=False)
        names = [_name(image) for image in prompt.images]
        for name in dict.fromkeys(names):
            self._counters.add("vertex", "per_uri", name)
        limiter = self._faults.limiter
        if limiter.quota is not None and not limiter.admit(prompt.tokens):
            raise build_error(429, limiter.quota.message or MESSAGES[429], retry_after=limiter.quota.retry_after)
        key = names[0] if names else _digest(prompt.text)
        attempt = self._faults.count_attempt(key)
        rule = self._faults.rule("generateContent", prompt.uris, prompt.text, key, attempt)
        failed = http_fault(rule)
        if failed is not None:
            return failed
        text = await asyncio.get_running_loop().run_in_executor(None, self._generate_text, prompt)
        body = answer_body(prompt, text, traffic, rule)
        await simulate_latency(request, self._faults.latency(key, attempt), rule)
        corrupted = await corrupt_response(request, rule, body)
        if corrupted is not None:
            return corrupted
        tokens = body["usageMetadata"]["totalTokenCount"]
        limiter.charge(tokens - prompt.tokens)
        if request.transport is not None and not request.transport.is_closing():
            self._counters.add("vertex", "tokens", amount=tokens)
            for name in dict.fromkeys(names):
                self._counters.add("vertex", "answered_per_uri", name)
        return json_response(body)

    async def _count(self, request: web.Request) -> web.StreamResponse:
        prompt, _ = await self._read(request, counting=True)
        key = prompt.uris[0] if prompt.uris else _digest(prompt.text)
        rule = self._faults.rule("countTokens", prompt.uris, prompt.text, key, 0)
        failed = http_fault(rule)
        if failed is not None:
            return failed
        await asyncio.get_running_loop().run_in_executor(None, self._measure_images, prompt)
        await simulate_latency(request, 0, rule)
        return await corrupt_response(request, rule, token_count(prompt)) or json_response(token_count(prompt))

    # Steps

    def _authorize(self, request: web.Request) -> tuple[str, str, str | None]:
        """Check the caller; return project, model and location."""
        self._faults.refresh()
        authenticate(request)
        project = request.match_info.get("project", self._project)
        model = request.match_info.get("model", TUNED_BASE)
        permission = None if request.method == "GET" else "aiplatform.endpoints.predict"
        account = caller(request.headers.get("Authorization"))
        path = request.path.removeprefix(VERTEX_PATH)
        resource = path.partition("/")[2].partition("/")[2].split(":")[0]
        self._faults.authorize(project, permission, resource, account)
        if "endpoint" in request.match_info:
            endpoint_resource(project, request.match_info["location"], request.match_info["endpoint"])
        return project, model.removesuffix("@default"), request.match_info.get("location")

    def _authorize_resource(self, request: web.Request, permission: str) -> tuple[str, str]:
        """Check the caller of a method of tuned models or endpoints; return project and location."""
        self._counters.add("vertex", "model_gets")
        self._faults.refresh()
        authenticate(request)
        project, location = request.match_info["project"], request.match_info["location"]
        account = caller(request.headers.get("Authorization"))
        self._faults.authorize(project, permission, f"projects/{project}/locations/{location}", account)
        return project, location

    async def _read(self, request: web.Request, *, counting: bool) -> tuple[Prompt, str]:
        raw = await request.read()
        project, name, location = self._authorize(request)
        model = find_model(name, project, location, self._faults.retired)
        traffic = traffic_type(model, request.match_info["location"], request.headers)
        if len(raw) > BODY_BYTES:
            raise ApiError(400, f"Request payload size exceeds the limit: {BODY_BYTES} bytes.")
        prompt = read_prompt(parse_object(raw), model, counting=counting)
        self._faults.check_read_access(prompt.uris)
        return prompt, traffic

    def _measure_images(self, prompt: Prompt) -> list[Any]:
        return [self.images.measure(image) for image in prompt.images]

    def _generate_text(self, prompt: Prompt) -> str:
        """Measure the images and generate the answer. Blocking."""
        return generate_text(prompt, self._measure_images(prompt), self._seed)


def _name(image: InputImage) -> str:
    return image.uri or f"inline:{_digest(image.data or '')}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

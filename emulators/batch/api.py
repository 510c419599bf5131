"""``batchPredictionJobs`` of the local Vertex AI: create, get, list, cancel, delete.

Jobs exist as long as the process. ``GET /_local/batch`` returns all of them, ``DELETE /_local/batch`` discards them,
also running ones. `batch.faults` describes the failures that can be configured.
"""

import asyncio
from typing import Any, Final

from aiohttp import web

from imagebeam.emulators.batch.answers import GenerateHandler, LineHandler
from imagebeam.emulators.batch.data.filter import parse_filter
from imagebeam.emulators.batch.data.tables import check_location
from imagebeam.emulators.batch.embeddings import EmbedHandler
from imagebeam.emulators.batch.faults import BatchFaults, CallFault, job_faults
from imagebeam.emulators.batch.jobs import Job, JobStore
from imagebeam.emulators.batch.requests import read_create
from imagebeam.emulators.batch.worker import JobWorker
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.core.access import PROJECT_NUMBER, caller
from imagebeam.emulators.core.auth import authenticate
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError, json_response, read_json
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, ImageDescriptors
from imagebeam.emulators.vertex.faults import MESSAGES, VertexFaults, build_error
from imagebeam.emulators.vertex.generate.images import ImageReader

_JOBS: Final = "/{version}/projects/{project}/locations/{location}/batchPredictionJobs"
#: Default and maximum number of jobs per page.
_PAGE_SIZE: Final = 50
_MAX_PAGE_SIZE: Final = 100


class BatchService:
    """The routes of the batch service.

    Counters (branch ``batch``): ``calls`` by method, ``created`` by display name, and what `JobWorker` counts.

    Args:
        objects: Cloud Storage.
        catalog: BigQuery.
        images: Measures images.
        descriptors: Descriptors of images for embedding models.
        seed: Seed of the model and of random decisions.
        config: The fault configuration: sections ``batch`` and, for rows, ``vertex``.
        counters: The counters.
    """

    def __init__(
        self,
        objects: ObjectStore,
        catalog: Catalog,
        images: ImageReader,
        descriptors: ImageDescriptors,
        seed: int,
        config: FaultConfig,
        counters: Counters,
    ) -> None:
        self._catalog = catalog
        self._images = images
        self._descriptors = descriptors
        self._seed = seed
        self._counters = counters
        self._faults = BatchFaults(config)
        self._access = VertexFaults(config, seed)
        self._rules = VertexFaults(config, seed)
        self._store = JobStore()
        self._worker = JobWorker(objects, catalog, self._faults, counters, seed, self._handler)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        one = _JOBS + "/{job:[^/:]+}"
        return [
            web.post(_JOBS, self._create),
            web.get(_JOBS, self._list, allow_head=False),
            web.get(one, self._get, allow_head=False),
            web.post(one + ":cancel", self._cancel),
            web.delete(one, self._delete),
            web.get("/_local/batch", self._show),
            web.delete("/_local/batch", self._clear),
        ]

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request)
        self._authorize(request, "create")
        spec = read_create(body, request.match_info["project"], request.match_info["location"], self._access.retired)
        fault = self._faults.call("create", spec.display_name)
        if fault is not None and fault.code is not None:
            raise _error(fault)
        await asyncio.to_thread(self._check_tables, spec.location, spec.source, spec.destination)
        rules = self._faults.rules(spec.display_name)
        job = self._store.create(spec, rules, job_faults(rules))
        self._counters.add("batch", "created", spec.display_name)
        answer = json_response(job.resource())
        self._worker.start(job)
        if fault is not None and request.transport is not None:
            request.transport.abort()  # the job exists, but the caller gets no response
        return answer

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self._authorize(request, "get")
        return json_response(self._job(request, "get").resource())

    async def _list(self, request: web.Request) -> web.StreamResponse:
        self._authorize(request, "list")
        text = request.query.get("filter", "")
        self._raise_fault("list", text)
        wanted = parse_filter(text)
        size = _integer(request, "pageSize") or _PAGE_SIZE
        start = _integer(request, "pageToken")
        jobs = [job.resource() for job in self._store.all(request.match_info["location"]) if job.listed]
        found = [job for job in jobs if wanted(job)]
        page = found[start : start + min(size, _MAX_PAGE_SIZE)]
        body: dict[str, Any] = {"batchPredictionJobs": page} if page else {}
        if start + len(page) < len(found):
            body["nextPageToken"] = str(start + len(page))
        return json_response(body)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        self._authorize(request, "cancel")
        self._job(request, "cancel").cancel()
        return json_response({})

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        self._authorize(request, "delete")
        job = self._job(request, "delete")
        self._store.delete(job)
        place = f"projects/{PROJECT_NUMBER}/locations/{job.spec.location}"
        return json_response(
            {
                "name": f"{place}/operations/{int(job.id) + 1}",
                "metadata": {
                    "@type": "type.googleapis.com/google.cloud.aiplatform.v1.DeleteOperationMetadata",
                    "genericMetadata": {"createTime": job.created, "updateTime": job.created},
                },
                "done": True,
                "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
            }
        )

    async def _show(self, _: web.Request) -> web.StreamResponse:
        return json_response({"jobs": [{**job.resource(), "rowsRun": job.rows_run} for job in self._store.all()]})

    async def _clear(self, _: web.Request) -> web.StreamResponse:
        self._store.clear()
        return json_response({})

    # Steps

    def _authorize(self, request: web.Request, method: str) -> None:
        self._counters.add("batch", "calls", method)
        self._access.refresh()
        authenticate(request)
        project, location = request.match_info["project"], request.match_info["location"]
        account = caller(request.headers.get("Authorization"))
        permission = f"aiplatform.batchPredictionJobs.{method}"
        self._access.authorize(project, permission, f"projects/{project}/locations/{location}", account)

    def _job(self, request: web.Request, method: str) -> Job:
        job = self._store.get(request.match_info["location"], request.match_info["job"])
        self._raise_fault(method, job.spec.display_name)
        return job

    def _raise_fault(self, method: str, name: str) -> None:
        fault = self._faults.call(method, name)
        if fault is not None:
            raise _error(fault)

    def _check_tables(self, location: str, *places: object) -> None:
        for place in places:
            if isinstance(place, TableId):
                check_location(self._catalog, place, location)

    def _handler(self, job: Job) -> LineHandler:
        if isinstance(job.spec.model, EmbeddingModel):
            return EmbedHandler(self._descriptors, self._rules, self._faults.synthetic)
        return GenerateHandler(self._images, self._rules, self._seed, self._faults.synthetic)


def _error(fault: CallFault) -> ApiError:
    code = fault.code or 500
    return build_error(code, fault.message or MESSAGES.get(code, f"HTTP {code}"))


def _integer(request: web.Request, name: str) -> int:
    text = request.query.get(name) or "0"
    if not text.isdecimal():
        raise ApiError(400, f"Invalid {name}: {text!r}.")
    return int(text)

"""The local Dataflow: validate jobs, but do not run them.

A job is accepted if its graph and all packages exist in the local Cloud Storage. It then stays in
``JOB_STATE_PENDING`` until it is canceled. ``GET /_local/dataflow`` returns all jobs as submitted. Launches of Flex
Templates: see :mod:`imagebeam.emulators.dataflow.flex_templates`.

Beam uses REST only for the host name ``localhost``: ``--dataflow_endpoint=http://localhost:PORT``.
"""

import asyncio
import datetime as dt
import hashlib
import itertools
import re
from typing import Any, Final

from aiohttp import web

from imagebeam.emulators.core.access import Access, caller
from imagebeam.emulators.core.auth import authenticate
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.http import ApiError, json_response, read_json
from imagebeam.emulators.dataflow.flex_templates import FlexTemplates, ImageRegistry
from imagebeam.emulators.storage.object_store import ObjectStore

_JOBS: Final = "/v1b3/projects/{project}/locations/{location}/jobs"
_STORAGE: Final = "storage.googleapis.com/"
_JOB_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,1022}[a-z0-9])?")
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
#: Job types by number, as Google's client sends enums.
_TYPES: Final = {1: "JOB_TYPE_BATCH", 2: "JOB_TYPE_STREAMING"}
_WAITING: Final = "JOB_STATE_PENDING"
_CANCELLED: Final = {5: "JOB_STATE_CANCELLED"}


class DataflowService:
    """The routes of the Dataflow service: create, get, list and cancel jobs.

    Counters (branch ``dataflow``): ``calls`` by method.

    Args:
        objects: Cloud Storage, to which graphs and packages are staged.
        images: The container images of Flex Templates.
        project: ID of the only project.
        access: The access rules.
        counters: The counters.
    """

    def __init__(
        self, objects: ObjectStore, images: ImageRegistry, project: str, access: Access, counters: Counters
    ) -> None:
        self._objects = objects
        self._templates = FlexTemplates(objects, images, self._authorize, self._launch)
        self._project = project
        self._access = access
        self._counters = counters
        self._jobs: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        one = _JOBS + "/{job}"
        return [
            web.post(_JOBS, self._create),
            web.get(_JOBS, self._list, allow_head=False),
            web.get(one, self._get, allow_head=False),
            web.put(one, self._update),
            *self._templates.routes(),
            web.get("/_local/dataflow", self._show),
            web.delete("/_local/dataflow", self._clear),
        ]

    async def _create(self, request: web.Request) -> web.StreamResponse:
        location = self._authorize(request, "create")
        body = await read_json(request)
        check_job(body)
        await asyncio.to_thread(self._check_staged, body)
        # The real service returns the existing job, which the client recognizes by its request ID.
        active = self._active(body["name"], location)
        return json_response(active or self._add({**body, "currentState": _WAITING}, location))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return json_response(self._job(request, "get"))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        location = self._authorize(request, "list")
        summary = ("id", "projectId", "name", "type", "currentState", "createTime", "location")
        jobs = [job for job in self._jobs.values() if job["location"] == location]
        return json_response({"jobs": [{name: job[name] for name in summary if name in job} for job in jobs]})

    async def _update(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request, "update")
        wanted = (await read_json(request)).get("requestedState")
        if wanted not in {*_CANCELLED, *_CANCELLED.values()}:
            raise ApiError(501, f"The local Dataflow supports requestedState JOB_STATE_CANCELLED only, not {wanted}.")
        job["currentState"] = "JOB_STATE_CANCELLED"
        return json_response(job)

    async def _show(self, _: web.Request) -> web.StreamResponse:
        return json_response({"jobs": list(self._jobs.values())})

    async def _clear(self, _: web.Request) -> web.StreamResponse:
        self._jobs.clear()
        return json_response({})

    # Steps

    def _launch(self, job: dict[str, Any], location: str) -> dict[str, Any]:
        """Store the job of a Flex Template.

        Raises:
            ApiError: 400 for an invalid name, 409 if a job of that name is active.
        """
        check_name(job["name"])
        active = self._active(job["name"], location)
        if active is not None:
            raise ApiError(409, f"There is already an active job named {job['name']} in {location}: {active['id']}.")
        return self._add(job, location)

    def _active(self, name: str, location: str) -> dict[str, Any] | None:
        """Return the job of a name that has not ended."""
        for job in self._jobs.values():
            if (job["name"], job["location"]) == (name, location) and job["currentState"] not in _CANCELLED.values():
                return job
        return None

    def _add(self, job: dict[str, Any], location: str) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC)
        number = f"{now:%Y-%m-%d_%H_%M_%S}-{next(self._numbers)}"
        stamp = f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"
        known = {"id": number, "projectId": self._project, "location": location, "createTime": stamp}
        self._jobs[number] = {**job, **known, "currentStateTime": stamp}
        return self._jobs[number]

    def _authorize(self, request: web.Request, method: str) -> str:
        """Check the caller and the location; return the location."""
        self._counters.add("dataflow", "calls", method)
        authenticate(request)
        project, location = request.match_info["project"], request.match_info["location"]
        if project != self._project:
            raise ApiError(403, f"Could not find project {project}, or the caller may not use Dataflow there.")
        if not _REGION.fullmatch(location):
            raise ApiError(400, f"The location {location} is not a region where Dataflow runs.")
        self._access.require_api("dataflow.googleapis.com", project)
        account = caller(request.headers.get("Authorization"))
        self._access.require(f"dataflow.jobs.{method}", f"projects/{project}", account)
        return location

    def _job(self, request: web.Request, method: str) -> dict[str, Any]:
        location = self._authorize(request, method)
        job = self._jobs.get(request.match_info["job"])
        if job is None or job["location"] != location:
            raise ApiError(404, f"Could not find job {request.match_info['job']} in {location}.")
        return job

    def _check_staged(self, job: dict[str, Any]) -> None:
        """Check the files that the workers would download.

        Raises:
            ApiError: 400 if the graph or a package is missing, or the graph has another hash.
        """
        options = job["environment"].get("sdkPipelineOptions", {}).get("options", {})
        graph = self._read(str(options.get("pipelineUrl", "")).removeprefix("gs://"))
        if hashlib.sha256(graph).hexdigest() != options.get("pipelineProtoHash"):
            raise ApiError(400, "The hash of the staged graph differs from pipelineProtoHash.")
        for pool in job["environment"]["workerPools"]:
            for package in pool.get("packages", []):
                self._read(str(package.get("location", "")).removeprefix(_STORAGE))

    def _read(self, place: str) -> bytes:
        bucket, _, name = place.partition("/")
        found = self._objects.open(bucket, name) if bucket and name else None
        if found is None:
            raise ApiError(400, f"The workers could not read gs://{place}: no such object.")
        with found[1] as stream:
            return stream.read()


def check_name(name: object) -> None:
    """Check the name of a job.

    Raises:
        ApiError: 400 if it is invalid.
    """
    if not isinstance(name, str) or not _JOB_NAME.fullmatch(name):
        raise ApiError(400, f"The job name {name!r} must match {_JOB_NAME.pattern}.")


def check_job(job: dict[str, Any]) -> None:
    """Check the fields of a job.

    Raises:
        ApiError: 400 that names the invalid field.
    """
    check_name(job.get("name"))
    if job.get("type") not in {*_TYPES, *_TYPES.values()}:
        raise ApiError(400, f"The job's type {job.get('type')!r} must be one of {', '.join(_TYPES.values())}.")
    for key, value in job.get("labels", {}).items():
        if not _LABEL_KEY.fullmatch(key) or not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            raise ApiError(400, f"The label {key}={value} is not allowed: use lowercase letters, digits, _ and -.")
    pools = job.get("environment", {}).get("workerPools")
    if not isinstance(pools, list) or not pools:
        raise ApiError(400, "The job has no worker pool.")
    for pool in pools:
        max_workers = pool.get("autoscalingSettings", {}).get("maxNumWorkers")
        if max_workers is not None and pool.get("numWorkers", 0) > max_workers:
            raise ApiError(400, f"numWorkers {pool['numWorkers']} is more than maxNumWorkers {max_workers}.")

"""Flex Templates of the local Dataflow, and the container images that they use.

A launch is checked as Dataflow checks it: the container spec, the parameters against the metadata of the template, the
name and the region of the job. Then the job is queued; nothing runs it, because there are no containers here.
"""

import asyncio
import datetime as dt
import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

from imagebeam.emulators.core.auth import authenticate
from imagebeam.emulators.core.http import ApiError, json_response, read_json
from imagebeam.emulators.storage.object_store import ObjectStore

#: ``REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG``.
_IMAGE: Final = re.compile(
    r"(?P<location>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[^/]+)/(?P<repository>[^/]+)/[a-z0-9._/-]+:[\w.-]+"
)

Resource = dict[str, Any]
#: Stores a job under a new ID; takes its fields and its location.
AddJob = Callable[[Resource, str], Resource]


class ImageRegistry:
    """The names of the container images that were built, without their content.

    Args:
        path: JSON file with the names.
        project: The only project, whose repositories accept images.
    """

    def __init__(self, path: Path, project: str) -> None:
        self._path = path
        self._project = project
        self._lock = threading.Lock()

    def __contains__(self, image: str) -> bool:
        return image in self._read()

    def add(self, image: str) -> None:
        """Register an image.

        Raises:
            ApiError: 400 for an invalid name, 403 for a repository of another project.
        """
        found = _IMAGE.fullmatch(image)
        if found is None:
            raise ApiError(400, f"invalid image name {image!r}: use REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG")
        if found["project"] != self._project:
            place = f"projects/{found['project']}/locations/{found['location']}/repositories/{found['repository']}"
            raise ApiError(
                403,
                'denied: Permission "artifactregistry.repositories.uploadArtifacts" denied on resource '
                f'"{place}" (or it may not exist)',
            )
        with self._lock:
            names = sorted({*self._read(), image})
            temporary = self._path.with_suffix(".new")
            temporary.write_bytes(orjson.dumps(names))
            temporary.replace(self._path)

    def _read(self) -> list[str]:
        try:
            names: list[str] = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return []
        return names


class FlexTemplates:
    """The routes for images and for launches of Flex Templates.

    Args:
        objects: Cloud Storage, which contains the templates.
        images: The images that were built.
        authorize: Checks the caller of a launch, and returns the location of the job.
        add_job: Stores the launched job.
    """

    def __init__(
        self, objects: ObjectStore, images: ImageRegistry, authorize: Callable[[web.Request, str], str], add_job: AddJob
    ) -> None:
        self._objects = objects
        self._images = images
        self._authorize = authorize
        self._add_job = add_job

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/v1b3/projects/{project}/locations/{location}/flexTemplates:launch", self._launch),
            web.post("/_local/images", self._register),
        ]

    async def _register(self, request: web.Request) -> web.StreamResponse:
        authenticate(request)
        await asyncio.to_thread(self._images.add, str((await read_json(request)).get("image")))
        return json_response({})

    async def _launch(self, request: web.Request) -> web.StreamResponse:
        location = self._authorize(request, "create")
        body = await read_json(request)
        launch = body.get("launchParameter") or {}
        spec = await asyncio.to_thread(self._read_spec, str(launch.get("containerSpecGcsPath") or ""))
        given = launch.get("parameters") or {}
        problems = check_parameters(spec.get("metadata") or {}, given)
        if problems:
            raise ApiError(400, "The template parameters are invalid. Details: " + "; ".join(problems))
        environment = launch.get("environment") or {}
        for name in ("tempLocation", "stagingLocation"):
            self._check_bucket(name, environment.get(name))
        if spec["image"] not in self._images:
            raise ApiError(
                400,
                f"Failed to read the image {spec['image']}: manifest unknown. It was not built in this local Google "
                "Cloud.",
            )
        if body.get("validateOnly"):
            return json_response({})
        job = {
            "name": launch.get("jobName"),
            "type": "JOB_TYPE_BATCH",
            "labels": environment.get("additionalUserLabels") or {},
            "currentState": "JOB_STATE_QUEUED",
            "launchTime": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
            "launchParameter": launch,
        }
        return json_response({"job": self._add_job(job, location)})

    def _read_spec(self, path: str) -> Resource:
        """Read the container spec of a template.

        Raises:
            ApiError: 400 if it is missing or invalid.
        """
        bucket, _, name = path.removeprefix("gs://").partition("/")
        found = self._objects.open(bucket, name) if path.startswith("gs://") and bucket and name else None
        if found is None:
            raise ApiError(400, f"Unable to open template file: {path}.")
        with found[1] as stream:
            try:
                spec = json.loads(stream.read())
            except ValueError:
                spec = None
        if not isinstance(spec, dict) or not isinstance(spec.get("image"), str):
            raise ApiError(400, f"The template file {path} is not a container spec with an image.")
        return spec

    def _check_bucket(self, name: str, path: str | None) -> None:
        if path is None:
            return
        if not path.startswith("gs://"):
            raise ApiError(400, f"The {name} {path} is not a Cloud Storage path.")
        self._objects.bucket(path.removeprefix("gs://").partition("/")[0])


def check_parameters(metadata: Mapping[str, Any], given: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the parameters of a launch, in Dataflow's words.

    >>> declared = {"parameters": [{"name": "task", "regexes": ["^[a-z]+$"]}, {"name": "limit", "isOptional": True}]}
    >>> check_parameters(declared, {"task": "signs", "limit": "5"})
    []
    >>> check_parameters(declared, {"task": "3", "limits": "5"})
    ["task: Unmatched regex: '^[a-z]+$'", 'limits: Unrecognized parameter']
    >>> check_parameters(declared, {})
    ['task: Missing required parameter']
    """
    declared = {parameter["name"]: parameter for parameter in metadata.get("parameters", ())}
    problems = []
    for name, parameter in declared.items():
        value = given.get(name)
        if value is None:
            if not parameter.get("isOptional"):
                problems.append(f"{name}: Missing required parameter")
            continue
        allowed = [option["value"] for option in parameter.get("enumOptions", ())]
        if allowed and value not in allowed:
            problems.append(f"{name}: Invalid value {value!r}; the allowed values are {', '.join(allowed)}")
        problems += [
            f"{name}: Unmatched regex: '{regex}'"
            for regex in parameter.get("regexes", ())
            if not re.fullmatch(regex, value)
        ]
    return problems + [f"{name}: Unrecognized parameter" for name in given if name not in declared]

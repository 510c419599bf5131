"""The tuned models of the local Vertex AI, and the endpoints that they are deployed to.

Every region of the base model has the same ones. Resources have the fields of ``projects.locations.models`` and
``projects.locations.endpoints`` (Google, discovery document of ``aiplatform`` v1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.models import MODELS

#: Base model of all tuned models.
TUNED_BASE: Final = "gemini-2.5-flash"
_CREATED: Final = "2026-09-01T08:00:00.000000Z"
_ALIAS: Final = "default"


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A tuned model.

    Attributes:
        number: Its ID.
        versions: IDs of its versions; the last one is the default.
        endpoints: ID of an endpoint → versions that are deployed to it.
    """

    number: str
    versions: tuple[str, ...]
    endpoints: Mapping[str, tuple[str, ...]]


#: One that is deployed, one that is not, and one with two versions on one endpoint.
TUNED_MODELS: Final = (
    TunedModel("8150", ("1", "2"), {"4711": ("2",)}),
    TunedModel("8151", ("1",), {}),
    TunedModel("8152", ("1", "2"), {"4712": ("1", "2")}),
)


def check_location(name: str, location: str) -> None:
    """Check that tuned models exist at a location: in regions only.

    Raises:
        ApiError: 404 if not.
    """
    if location == "global" or not MODELS[TUNED_BASE].serves(location):
        raise ApiError(404, f"{name} is not found.")


def model_resource(project: str, location: str, written: str) -> dict[str, Any]:
    """Return a model as ``models.get`` does.

    Args:
        project: Its project.
        location: Its location.
        written: Its ID, with or without ``@VERSION``.

    Raises:
        ApiError: 404 if there is no such model or version.
    """
    name = f"projects/{project}/locations/{location}/models/{written}"
    check_location(f"The Model `{name}`", location)
    number, _, asked = written.partition("@")
    model = next((each for each in TUNED_MODELS if each.number == number), None)
    if model is None:
        raise ApiError(404, f"The Model `{name}` is not found.")
    version = model.versions[-1] if asked in ("", _ALIAS) else asked
    if version not in model.versions:
        raise ApiError(404, f"The Model `{name}` is not found.")
    place = f"projects/{project}/locations/{location}"
    deployed = [
        {"endpoint": f"{place}/endpoints/{endpoint}", "deployedModelId": _deployed_id(model, each)}
        for endpoint, versions in model.endpoints.items()
        for each in versions
        if each == version
    ]
    return {
        "name": f"{place}/models/{number}",
        "versionId": version,
        **({"versionAliases": [_ALIAS]} if version == model.versions[-1] else {}),
        "displayName": f"tuned-{number}",
        "createTime": _CREATED,
        "updateTime": _CREATED,
        "versionCreateTime": _CREATED,
        "versionUpdateTime": _CREATED,
        "etag": f"etag-{number}-{version}",
        **({"deployedModels": deployed} if deployed else {}),
        "modelSourceInfo": {"sourceType": "GENIE"},
        "baseModelSource": {"genieSource": {"baseModelUri": f"publishers/google/models/{TUNED_BASE}"}},
    }


def endpoint_resource(project: str, location: str, number: str) -> dict[str, Any]:
    """Return an endpoint as ``endpoints.get`` does.

    Raises:
        ApiError: 404 if there is no such endpoint.
    """
    place = f"projects/{project}/locations/{location}"
    check_location(f"Endpoint `{place}/endpoints/{number}`", location)
    deployed = [
        {
            "id": _deployed_id(model, version),
            "model": f"{place}/models/{model.number}",
            "modelVersionId": version,
            "displayName": f"tuned-{model.number}",
            "createTime": _CREATED,
        }
        for model in TUNED_MODELS
        for version in model.endpoints.get(number, ())
    ]
    if not deployed:
        raise ApiError(404, f"Endpoint `{place}/endpoints/{number}` is not found.")
    share = 100 // len(deployed)
    return {
        "name": f"{place}/endpoints/{number}",
        "displayName": f"endpoint-{number}",
        "deployedModels": deployed,
        "trafficSplit": {each["id"]: share for each in deployed},
        "etag": f"etag-{number}",
        "createTime": _CREATED,
        "updateTime": _CREATED,
    }


def endpoint_list(project: str, location: str) -> dict[str, Any]:
    """Return all endpoints of a location as ``endpoints.list`` does."""
    numbers = dict.fromkeys(number for model in TUNED_MODELS for number in model.endpoints)
    try:
        return {"endpoints": [endpoint_resource(project, location, number) for number in numbers]}
    except ApiError:
        return {}


def _deployed_id(model: TunedModel, version: str) -> str:
    return f"{model.number}{version}"

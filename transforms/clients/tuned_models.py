"""Find the endpoint of a tuned model, and the model of an endpoint.

Calls are made to an endpoint (``endpoints.generateContent``), a batch job names a model
(``batchPredictionJobs.model``), and Vertex AI accepts neither in the place of the other. Both are looked up free of
charge.
"""

from __future__ import annotations

from typing import Any

import google.auth
import google.auth.exceptions

from imagebeam.transforms.clients.credentials import SCOPES
from imagebeam.transforms.clients.rest import ApiError, RestClient
from imagebeam.transforms.clients.vertex import API_VERSION, endpoint
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.gemini.error_classes import classify_exception
from imagebeam.transforms.tasks.model_names import ModelKind, ModelName


def resolve_call_model(name: ModelName) -> str:
    """Return the resource name that calls are made to: that of a model's endpoint.

    Args:
        name: Name of any model.

    Raises:
        UserError: The tuned model does not exist, or is not deployed.
        ApiError: The service rejects the call or does not respond.
    """
    if name.kind is not ModelKind.MODEL:
        return name.name
    deployed = [str(each["endpoint"]) for each in _deployed(name) if each.get("endpoint")]
    if not deployed:
        raise UserError(
            f"tuned model {name.name} is not deployed to an endpoint, which calls need",
            fix="--lane=batch, or deploy it (gcloud ai endpoints deploy-model)",
        )
    return deployed[0]


def resolve_job_model(name: ModelName) -> str:
    """Return the name of the model for a batch job: the one that is deployed to an endpoint.

    Args:
        name: Name of any model.

    Raises:
        UserError: The endpoint does not exist, or does not have exactly one model.
        ApiError: The service rejects the call or does not respond.
    """
    if name.kind is not ModelKind.ENDPOINT:
        return name.name
    models = [_versioned(each) for each in _deployed(name) if each.get("model")]
    if len(models) != 1:
        found = f"has {len(models)} models ({', '.join(models)})" if models else "has no model"
        raise UserError(
            f"endpoint {name.name} {found}, and a batch job needs the name of one model",
            fix=f"--model={models[0] if models else 'projects/PROJECT/locations/LOCATION/models/ID'}",
        )
    return models[0]


def check_exists(name: ModelName) -> None:
    """Check that a tuned model or endpoint exists.

    Raises:
        UserError: It does not exist.
        ApiError: The service rejects the call or does not respond.
    """
    _get(name)


def _versioned(deployed: dict[str, Any]) -> str:
    model, version = str(deployed["model"]), str(deployed.get("modelVersionId") or "")
    return model if "@" in model or not version else f"{model}@{version}"


def _deployed(name: ModelName) -> list[dict[str, Any]]:
    found = _get(name).get("deployedModels")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _get(name: ModelName) -> dict[str, Any]:
    operation = f"looking up {name.kind} {name.name}"
    try:
        credentials, _ = google.auth.default(scopes=SCOPES)
    except google.auth.exceptions.GoogleAuthError as error:
        raise ApiError(operation, classify_exception(error)) from None
    client = RestClient(f"{endpoint(str(name.location)).rstrip('/')}/{API_VERSION}", credentials)
    try:
        return client.call("GET", name.name, operation=operation)
    except ApiError as error:
        if error.status == 404:
            raise UserError(
                f"{name.kind} {name.name} does not exist, or you cannot access it",
                fix=f"check --model (gcloud ai {'endpoints' if name.kind is ModelKind.ENDPOINT else 'models'} list "
                f"--project={name.project} --region={name.location})",
            ) from None
        raise

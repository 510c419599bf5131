"""The Gemini models of the local Vertex AI, and what each accepts.

Sources: Google, "Model versions and lifecycle", "Thinking", "Image understanding" and "Flex PayGo", as of November
2026. Deliberately independent of the model profiles of the pipeline, so that a mistake there is detected here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from imagebeam.emulators.core.http import ApiError

#: Tokens of one image on Gemini 3, by media resolution.
IMAGE_TOKENS: Final[Mapping[str, int]] = {
    "MEDIA_RESOLUTION_UNSPECIFIED": 1120,
    "MEDIA_RESOLUTION_LOW": 280,
    "MEDIA_RESOLUTION_MEDIUM": 560,
    "MEDIA_RESOLUTION_HIGH": 1120,
    "MEDIA_RESOLUTION_ULTRA_HIGH": 2240,
}
#: Tokens of one image before Gemini 3 (of one tile; the local model does not split images into tiles).
OLD_IMAGE_TOKENS: Final = 258
#: Thinking tokens of the local model. They are billed and count against maxOutputTokens.
THOUGHT_TOKENS: Final[Mapping[str, int]] = {"MINIMAL": 0, "LOW": 150, "MEDIUM": 500, "HIGH": 1500}

_REGION_PARTS: Final = 2


@dataclass(frozen=True, slots=True)
class Model:
    """One publisher model.

    Attributes:
        name: Model ID.
        generation: 2 for Gemini 2.5, 3 for Gemini 3.x.
        levels: Supported thinking levels (Gemini 3 only).
        level: Default thinking level.
        min_budget: Minimum thinking budget other than 0 (Gemini 2.5 only).
        max_budget: Maximum thinking budget (Gemini 2.5 only).
        always_thinks: Whether a budget of 0 is rejected (Gemini 2.5 only).
        budget: Default thinking budget; -1 for dynamic.
        penalties: Whether presencePenalty and frequencyPenalty are supported.
        allows_model_last_turn: Whether the last turn of ``contents`` may have the role ``model``.
        is_retired: Whether the model no longer exists.
    """

    name: str
    generation: int = 3
    levels: tuple[str, ...] = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
    level: str = "MEDIUM"
    min_budget: int = 0
    max_budget: int = 24576
    always_thinks: bool = False
    budget: int = -1
    penalties: bool = True
    allows_model_last_turn: bool = True
    is_retired: bool = False

    def serves(self, location: str) -> bool:
        """Return whether the model is served at a location: ``global``, ``us``, ``eu`` or a region."""
        if self.generation > 2:
            return location in ("global", "us", "eu")
        return location == "global" or location.count("-") == _REGION_PARTS - 1

    def image_tokens(self, resolution: str) -> int:
        """Return the prompt tokens of one image at a media resolution."""
        return IMAGE_TOKENS[resolution] if self.generation > 2 else OLD_IMAGE_TOKENS

    def thoughts(self, thinking: Mapping[str, Any]) -> int:
        """Check a ``thinkingConfig`` in camelCase and return the number of thinking tokens.

        Raises:
            ApiError: 400 for a setting that the model does not support.
        """
        level, budget = thinking.get("thinkingLevel"), thinking.get("thinkingBudget")
        if self.generation > 2:
            return self._by_level(level, budget)
        if level is not None:
            raise ApiError(400, f"Thinking level is not supported for this model: {self.name}. Use thinking_budget.")
        budget = self.budget if budget is None else budget
        special = (-1,) if self.always_thinks else (0, -1)
        if budget not in special and not max(self.min_budget, 1) <= budget <= self.max_budget:
            lowest = f"{self.min_budget} to" if self.min_budget else "up to"
            choices = f"{'-1' if self.always_thinks else '0, -1'} or a value {lowest} {self.max_budget}"
            raise ApiError(400, f"The thinking budget {budget} is invalid. Please choose {choices}.")
        return THOUGHT_TOKENS["MEDIUM"] if budget == -1 else min(budget, THOUGHT_TOKENS["HIGH"])

    def _by_level(self, level: str | None, budget: int | None) -> int:
        if level is not None and budget is not None:
            raise ApiError(400, "You can only set only one of thinking budget and thinking level.")
        if level is not None and level not in self.levels:
            raise ApiError(400, f"Thinking level {level} is not supported for this model: {self.name}.")
        if budget is not None:  # still accepted, for requests written for Gemini 2.5
            return THOUGHT_TOKENS[self.level] if budget == -1 else min(max(budget, 0), THOUGHT_TOKENS["HIGH"])
        return THOUGHT_TOKENS[level or self.level]


_NO_MINIMAL: Final = ("LOW", "MEDIUM", "HIGH")

MODELS: Final[Mapping[str, Model]] = {
    model.name: model
    for model in (
        Model("gemini-2.5-flash", 2),
        # Not in models.yaml: a model that the pipeline has no profile of.
        Model("gemini-2.5-pro", 2, min_budget=128, max_budget=32768, always_thinks=True),
        Model("gemini-2.5-flash-lite", 2, min_budget=512, budget=0),
        Model("gemini-3.1-flash-lite", level="MINIMAL"),
        Model("gemini-3.5-flash-lite", level="MINIMAL", penalties=False, allows_model_last_turn=False),
        Model("gemini-3.5-flash"),
        Model("gemini-3.6-flash", penalties=False, allows_model_last_turn=False, is_retired=True),
        Model("gemini-3.7-flash", levels=_NO_MINIMAL, penalties=False, allows_model_last_turn=False),
        Model("gemini-3.8-flash", levels=_NO_MINIMAL, penalties=False, allows_model_last_turn=False),
    )
}

_TRAFFIC: Final = {"flex": "ON_DEMAND_FLEX", "priority": "ON_DEMAND_PRIORITY"}


def traffic_type(model: Model, location: str, headers: Mapping[str, str]) -> str:
    """Return the traffic type, by which a request is billed, from the headers of Flex and Priority PayGo.

    Args:
        model: The requested model.
        location: The requested location.
        headers: Request headers; names in any case.

    Raises:
        ApiError: 400 for a request type that the model or location does not support.
    """
    lane = headers.get("X-Vertex-AI-LLM-Shared-Request-Type")
    if lane is None:
        return "ON_DEMAND"
    if lane not in _TRAFFIC:
        raise ApiError(400, f"Invalid value for header X-Vertex-AI-LLM-Shared-Request-Type: {lane}")
    if location != "global":
        raise ApiError(400, f"Request type {lane} is only supported on the global endpoint, not in {location}.")
    if lane == "flex" and model.generation < 3:
        raise ApiError(400, f"Request type flex is not supported for model {model.name}.")
    return _TRAFFIC[lane]


def find_model(name: str, project: str, location: str | None, retired: tuple[str, ...]) -> Model:
    """Return a model that is served at a location.

    Args:
        name: Model ID.
        project: For the message.
        location: Location; None for any.
        retired: IDs of models to treat as retired.

    Raises:
        ApiError: 404 if there is no such model.
    """
    model = MODELS.get(name)
    if model is None or model.is_retired or name in retired or not (location is None or model.serves(location)):
        raise model_not_found(name, project, location)
    return model


def model_not_found(name: str, project: str, location: str | None) -> ApiError:
    """Return the 404 for a model that is not served at a location (None: at any)."""
    return ApiError(
        404,
        f"Publisher Model `projects/{project}/locations/{location or 'global'}/publishers/google/models/{name}` "
        "was not found or your project does not have access to it. Please ensure you are using a valid model "
        "version. For more information, see: "
        "https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions",
    )

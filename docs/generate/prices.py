"""The tables of models and prices, from models.yaml."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from docs.generate.markdown import paragraph, table
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.tasks.catalog import load_models_file
from imagebeam.transforms.tasks.embedding import MODELS
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Price

_MILLION: Final = 1_000_000
_RESOLUTIONS: Final = ("low", "medium", "high")


def build_prices() -> str:
    """Return the tables of prices of Gemini models and of embedding models."""
    models = load_models_file()
    gemini = (
        [
            f"`{name}`{' (default)' if name == models.default else ''}",
            ", ".join(profile.locations),
            *(_tokens(profile.prices.get(lane)) for lane in (Lane.ONLINE, Lane.FLEX, Lane.BATCH)),
            ", ".join(f"{profile.image_tokens[key]:,}" for key in _RESOLUTIONS),
            _retirement(profile),
        ]
        for name, profile in models.profiles.items()
    )
    vectors = (
        [
            f"`{name}`",
            ", ".join(profile.locations),
            MODELS[name].format_dimensions(),
            *(_images(profile, lane) for lane in (Lane.ONLINE, Lane.BATCH)),
            _retirement(profile),
        ]
        for name, profile in models.embeddings.items()
    )
    introduction = paragraph(
        f"List prices as of {models.as_of}, in USD per million tokens (input / output / cached input).",
        "Thoughts are billed as output.",
    )
    tokens = f"tokens per image: {', '.join(_RESOLUTIONS)}"
    return "\n".join(
        [
            introduction,
            table(["model", "locations", "online", "flex", "batch", tokens, "retires"], gemini),
            "Embeddings, in USD per million images:\n",
            table(["model", "locations", "dimensions", "online", "batch", "retires"], vectors),
        ]
    )


def _tokens(price: Price | None) -> str:
    if price is None:
        return "–"
    return " / ".join(f"{value.normalize():f}" for value in (price.input, price.output, price.cached))


def _images(profile: ModelProfile, lane: Lane) -> str:
    price = profile.prices.get(lane)
    if price is None:
        return "–"
    tokens = Decimal(profile.image_tokens.get("default", 0))
    return f"{(price.image * _MILLION + tokens * price.input).quantize(Decimal(1))}"


def _retirement(profile: ModelProfile) -> str:
    return "" if profile.retirement is None else f"{profile.retirement.date}; {profile.retirement.note}"

"""Read ``models.yaml``: the properties and prices of every model."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.core.strict_yaml import Section, load_mapping
from imagebeam.transforms.tasks.model_profiles import LANES, ModelProfile, Models, Price, Quota, Retirement, Thinking
from imagebeam.transforms.tasks.task_keys import MEDIA_RESOLUTIONS, THINKING_WORDS

WARN_DAYS = 90


def load_models(text: str, source: str) -> Models:
    """Read ``models.yaml``.

    Args:
        text: The document; the shipped file explains its keys.
        source: Name of the document in messages.

    Raises:
        UserError: The document is invalid; the message has the key path.
    """
    section = load_mapping(text, source)
    section.allow(["as_of", "default", "thought_tokens", "assumed_quotas", "models", "embeddings"])
    thought_tokens = section.wholes("thought_tokens", THINKING_WORDS, 0, 100_000)
    models = section.section("models")
    quotas = section.sections("assumed_quotas", (Lane.ONLINE, Lane.FLEX), _read_quota)
    profiles = {
        str(name): _read_profile(str(name), models.section(name), thought_tokens, quotas) for name in models.content
    }
    default = section.choice("default", list(profiles))
    known = section.section("embeddings")
    embeddings = {str(name): _read_embedding(str(name), known.section(name)) for name in known.content}
    return Models(section.date("as_of"), default, profiles, source, embeddings)


def _read_profile(
    name: str, section: Section, thought_tokens: Mapping[str, int], quotas: Mapping[str, Quota]
) -> ModelProfile:
    known = ("locations", "flex_locations", "thinking", "image_tokens", "image_tokens_limit", "tile_tokens")
    section.allow([*known, "fixed_sampling", "prices", "retirement"])
    tokens = section.wholes("image_tokens", MEDIA_RESOLUTIONS, 0, 1_000_000)
    if "default" not in tokens:
        section.fail("image_tokens.default", "is missing")
    limits = section.section("image_tokens_limit")
    limits.allow(list(tokens))
    return ModelProfile(
        name=name,
        locations=_read_locations(section),
        flex_locations=section.words("flex_locations", ()),
        thinking=_read_thinking(section.section("thinking")),
        image_tokens=tokens,
        image_tokens_limit={key: limits.whole(key, tokens[key], 1_000_000) for key in limits.content},
        tile_tokens=section.whole("tile_tokens", 1, 1_000_000) if "tile_tokens" in section else None,
        fixed_sampling=section.flag("fixed_sampling", default=False),
        prices=section.sections("prices", LANES, _read_price),
        retirement=_read_retirement(section.section("retirement")) if "retirement" in section else None,
        thought_tokens=thought_tokens,
        assumed_quotas=quotas,
    )


def _read_embedding(name: str, section: Section) -> ModelProfile:
    section.allow(["locations", "image_tokens", "requests_per_minute", "assumed_quotas", "prices", "retirement"])
    return ModelProfile(
        name=name,
        locations=_read_locations(section),
        image_tokens={"default": section.whole("image_tokens", 0, 1_000_000, 0)},
        prices=section.sections("prices", LANES, _read_image_price),
        retirement=_read_retirement(section.section("retirement")) if "retirement" in section else None,
        requests_per_minute=section.wholes("requests_per_minute", ("regions", "europe"), 1, 10_000_000),
        assumed_quotas=section.sections("assumed_quotas", (Lane.ONLINE, Lane.SQL), _read_quota),
    )


def _read_locations(section: Section) -> tuple[str, ...]:
    locations = section.words("locations")
    if not locations:
        section.fail("locations", "must name at least one")
    return locations


def _read_quota(section: Section) -> Quota:
    keys = ("requests_per_minute", "tokens_per_minute")
    section.allow([*keys, "source"])
    requests, tokens = (section.whole(key, 1, 10**12) if key in section else None for key in keys)
    return Quota(requests, tokens, section.text("source") if "source" in section else "")


def _read_image_price(section: Section) -> Price:
    section.allow(["input", "image"])
    tokens, image = (
        Decimal(repr(section.number(key, 0, 100_000))) if key in section else Decimal(0) for key in ("input", "image")
    )
    return Price(tokens, Decimal(0), tokens, image)


def _read_price(section: Section) -> Price:
    section.allow(["input", "output", "cached"])
    # repr gives the shortest form, so that 0.1 in the file is exactly Decimal("0.1").
    return Price(*(Decimal(repr(section.number(key, 0, 100_000))) for key in ("input", "output", "cached")))


def _read_retirement(section: Section) -> Retirement:
    section.allow(["date", "warn_from", "note"])
    date = section.date("date")
    warn_from = section.date("warn_from") if "warn_from" in section else date - datetime.timedelta(days=WARN_DAYS)
    return Retirement(date, warn_from, section.text("note") if "note" in section else "")


def _read_thinking(section: Section) -> Thinking:
    if not section.content:
        return Thinking()
    section.allow(["param", "allowed", "default", "range"])
    param = section.choice("param", ("level", "budget", "none"))
    if param == "none":
        return Thinking()
    if param == "level":
        allowed = dict.fromkeys(section.words("allowed"), 0)
    else:
        budgets = section.section("allowed")
        allowed = {str(word): budgets.whole(word, 0, 100_000) for word in budgets.content}
    for word in allowed:
        if word not in THINKING_WORDS:
            section.fail("allowed", f"{word} is not one of {', '.join(THINKING_WORDS)}")
    return Thinking(
        param=cast("Any", param),
        allowed=allowed,
        default=section.choice("default", list(allowed)),
        budget_range=_read_range(section) if param == "budget" else None,
    )


def _read_range(section: Section) -> tuple[int, int]:
    value = section.content.get("range")
    if not isinstance(value, list) or len(value) != 2 or not all(type(item) is int for item in value):
        section.fail("range", "must be the smallest and the largest budget, such as [0, 24576]")
    return value[0], value[1]

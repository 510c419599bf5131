"""Read ``models.yaml``: the properties and prices of every model."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, cast

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.core.strict_yaml import Section, load_mapping, suggestion
from imagebeam.transforms.tasks.model_names import parse_model_name
from imagebeam.transforms.tasks.model_profiles import (
    LANES,
    MAX_OUTPUT_TOKENS,
    ModelProfile,
    Models,
    Price,
    Quota,
    Retirement,
    Thinking,
)
from imagebeam.transforms.tasks.task_keys import MEDIA_RESOLUTIONS, THINKING_WORDS

WARN_DAYS = 90


#: Keys of an entry that its copy under another name (``like``) does not get.
_NOT_COPIED: Final = frozenset({"retirement", "like"})


def load_models(text: str, source: str, base: tuple[str, str] | None = None) -> Models:
    """Read ``models.yaml``.

    Args:
        text: The document; the shipped file explains its keys.
        source: Name of the document in messages.
        base: Text and name of the document that this one adds to and overrides; None if it is complete.

    Raises:
        UserError: The document is invalid; the message has the key path.
    """
    section = _normalize_names(load_mapping(text, source))
    names = source
    if base is not None:
        shipped = _normalize_names(load_mapping(*base))
        section = Section(_merge(shipped.content, section.content), source)
        names = f"{source} or {base[1]}"
    section.allow(["as_of", "default", "thought_tokens", "assumed_quotas", "models", "embeddings"])
    thought_tokens = section.wholes("thought_tokens", THINKING_WORDS, 0, 100_000)
    models = section.section("models")
    quotas = section.sections("assumed_quotas", (Lane.ONLINE, Lane.FLEX), _read_quota)
    profiles = {
        str(name): _read_profile(str(name), _copy_like(models, str(name)), thought_tokens, quotas)
        for name in models.content
    }
    default = section.choice("default", list(profiles))
    known = section.section("embeddings")
    embeddings = {str(name): _read_embedding(str(name), known.section(name)) for name in known.content}
    return Models(section.date("as_of"), default, profiles, names, embeddings)


def _normalize_names(section: Section) -> Section:
    """Return the document with the normalized names of its models."""
    models = section.section("models")
    named: dict[str, Any] = {}
    for name, entry in models.content.items():
        try:
            named[parse_model_name(str(name)).name] = entry
        except UserError as error:
            models.fail(str(name), str(error))
    return Section({**section.content, "models": named} if "models" in section else section.content, section.source)


def _merge(base: Mapping[Any, Any], changes: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a document with the changes of another one: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _copy_like(models: Section, name: str) -> Section:
    """Return the entry of a model, over the one that its key ``like`` names."""
    entry = models.section(name)
    if "like" not in entry:
        return entry
    like = entry.text("like")
    other = models.content.get(parse_model_name(like).name)
    if not isinstance(other, dict) or "like" in other:
        known = [key for key, each in models.content.items() if isinstance(each, dict) and "like" not in each]
        entry.fail("like", f"unknown model {like}{suggestion(like, known) or '; use one of ' + ', '.join(known)}")
    copied = {key: value for key, value in other.items() if key not in _NOT_COPIED}
    own = {key: value for key, value in entry.content.items() if key != "like"}
    return Section(_merge(copied, own), entry.source, entry.path)


def _read_profile(
    name: str, section: Section, thought_tokens: Mapping[str, int], quotas: Mapping[str, Quota]
) -> ModelProfile:
    known = ("locations", "flex_locations", "thinking", "image_tokens", "image_tokens_limit", "tile_tokens")
    section.allow([*known, "fixed_sampling", "max_output_tokens", "prices", "retirement", "like"])
    tokens = section.wholes("image_tokens", MEDIA_RESOLUTIONS, 0, 1_000_000)
    if "default" not in tokens:
        section.fail("image_tokens.default", "is missing")
    limits = section.section("image_tokens_limit")
    limits.allow(list(tokens))
    # The name of a tuned model has its location.
    tuned = parse_model_name(name).is_tuned
    return ModelProfile(
        name=name,
        locations=() if tuned else _read_locations(section),
        flex_locations=section.words("flex_locations", ()),
        thinking=_read_thinking(section.section("thinking")),
        image_tokens=tokens,
        image_tokens_limit={key: limits.whole(key, tokens[key], 1_000_000) for key in limits.content},
        tile_tokens=section.whole("tile_tokens", 1, 1_000_000) if "tile_tokens" in section else None,
        fixed_sampling=section.flag("fixed_sampling", default=False),
        max_output_tokens=section.whole("max_output_tokens", 1, 1_000_000, MAX_OUTPUT_TOKENS),
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

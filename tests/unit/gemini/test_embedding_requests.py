"""Requests to both embedding models, as sent, and their responses."""

from __future__ import annotations

import base64
import dataclasses
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import TASK_DATA

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Image, Lane, Status, Unit, UnitKind, Usage
from imagebeam.transforms.engine.max_cost import check_cap, max_call_cost_usd
from imagebeam.transforms.gemini.embeddings import build_embedding_request, parse_embedding
from imagebeam.transforms.gemini.requests import ImagePart
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.tasks.catalog import load_models_file
from imagebeam.transforms.tasks.costs import cost_usd, estimate_usage
from imagebeam.transforms.tasks.embedding import MODELS, embed_task
from imagebeam.transforms.tasks.models_file import load_models

GEMINI, MULTIMODAL = embed_task("gemini-embedding-2", 3), embed_task("multimodalembedding@001", 128)
BY_URI, INLINE = ImagePart("image/jpeg", uri="gs://b/o1:a.jpg"), ImagePart("image/png", data=b"\x89PNG")
PROFILES = load_models_file()


def test_gemini_embedding_request_has_one_content() -> None:
    assert build_embedding_request(GEMINI, [BY_URI]) == {
        "content": {
            "role": "user",
            "parts": [{"fileData": {"mimeType": "image/jpeg", "fileUri": "gs://b/o1:a.jpg"}}],
        },
        "embedContentConfig": {"outputDimensionality": 3},
    }
    part = build_embedding_request(GEMINI, [INLINE])["content"]["parts"][0]
    assert part == {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(b"\x89PNG").decode()}}


def test_multimodalembedding_request_has_one_instance() -> None:
    assert build_embedding_request(MULTIMODAL, [BY_URI]) == {
        "instances": [{"image": {"mimeType": "image/jpeg", "gcsUri": "gs://b/o1:a.jpg"}}],
        "parameters": {"dimension": 128},
    }
    image = build_embedding_request(MULTIMODAL, [INLINE])["instances"][0]["image"]
    assert image == {"mimeType": "image/png", "bytesBase64Encoded": base64.b64encode(b"\x89PNG").decode()}


@pytest.mark.parametrize("parts", [[], [BY_URI, BY_URI]])
def test_embedding_needs_exactly_one_image(parts: list[ImagePart]) -> None:
    with pytest.raises(ValueError, match="one image"):
        build_embedding_request(GEMINI, parts)


def test_task_kind_builds_and_parses_embeddings() -> None:
    unit = Unit("o1", UnitKind.OBSERVATION, "d", (Image("o1", "gs://b/o1:a.jpg"),))
    body = task_kind(GEMINI).build_request(
        PROFILES.embedding("gemini-embedding-2"), unit, [BY_URI], {"imagebeam_run": "r"}
    )
    assert body == build_embedding_request(GEMINI, [BY_URI])
    assert task_kind(GEMINI).parse_response({"embedding": {"values": [1, 0, 0]}}).status is Status.OK


def test_parses_vector_and_usage() -> None:
    usage = {"promptTokenCount": 258, "totalTokenCount": 258}
    reply = parse_embedding({"embedding": {"values": [0.6, -0.8, 0]}, "usageMetadata": usage}, GEMINI)
    assert (reply.status, reply.reason, reply.retryable) == (Status.OK, None, False)
    assert list(reply.vector or ()) == [0.6, -0.8, 0.0]
    assert reply.value == {"dimension": 3}
    assert reply.usage == Usage(prompt_tokens=258, images=1)
    predicted = parse_embedding({"predictions": [{"imageEmbedding": [0.5] * 128}]}, MULTIMODAL)
    assert list(predicted.vector or ()) == [0.5] * 128


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0, 2.0], "WRONG_LENGTH"),
        ([1.0] * 4, "WRONG_LENGTH"),
        ([1.0, "NaN", 2.0], "NOT_FINITE"),
        ([1.0, None, 2.0], "NOT_FINITE"),
        ([1.0, True, 2.0], "NOT_FINITE"),
        ([1.0, math.inf, 2.0], "NOT_FINITE"),
        ([1.0, math.nan, 2.0], "NOT_FINITE"),
        ([1.0, 10**400, 2.0], "NOT_FINITE"),
        ([0, 0.0, -0.0], "ALL_ZERO"),
        ([], "EMPTY"),
        (None, "EMPTY"),
        ({"0": 1.0}, "EMPTY"),
    ],
)
def test_rejects_invalid_vectors(values: Any, reason: str) -> None:
    reply = parse_embedding({"embedding": {"values": values}}, GEMINI)
    assert (reply.status, reply.reason, reply.vector) == (Status.INVALID_ANSWER, reason, None)
    assert reply.message
    assert reply.retryable


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "embedding": JSON | st.fixed_dictionaries({"values": JSON}),
            "predictions": JSON | st.lists(st.fixed_dictionaries({"imageEmbedding": JSON}), max_size=2),
            "usageMetadata": JSON,
            "modelVersion": JSON,
        },
    )
)
def test_any_response_is_a_valid_vector_or_a_failure(body: dict[str, Any]) -> None:
    reply = parse_embedding(body, GEMINI)
    if reply.status is Status.OK:
        assert reply.vector is not None
        assert len(reply.vector) == 3
        assert all(math.isfinite(value) for value in reply.vector)
    else:
        assert reply.vector is None


# -- prices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "million_usd"), [("gemini-embedding-2", "116.1"), ("multimodalembedding@001", "100")]
)
def test_cost_of_a_million_images(model: str, million_usd: str) -> None:
    profile, task = PROFILES.embedding(model), embed_task(model, 512)
    one = estimate_usage(profile, task, 1)
    assert cost_usd(profile, Lane.ONLINE, one.times(1_000_000)) == Decimal(million_usd)
    assert max_call_cost_usd(profile, task, Lane.ONLINE, {}) == cost_usd(profile, Lane.ONLINE, one)


def test_cap_must_allow_one_image() -> None:
    profile = PROFILES.embedding("gemini-embedding-2")
    caps: dict[str, Any] = {"max_calls": None, "processes": 2}
    assert check_cap(profile, GEMINI, Lane.ONLINE, max_cost_usd=Decimal("0.001"), **caps) == Decimal("0.0001161")
    with pytest.raises(UserError, match=r"set it to at least 0\.000232200$"):
        check_cap(profile, GEMINI, Lane.ONLINE, max_cost_usd=Decimal("0.0002"), **caps)


def test_fixed_quota_depends_on_the_location() -> None:
    profile = PROFILES.embedding("multimodalembedding@001")
    assert [profile.fixed_rpm(place) for place in ("us-central1", "asia-east1", "europe-west4")] == [600, 600, 120]
    assert PROFILES.embedding("gemini-embedding-2").fixed_rpm("global") is None


def test_embedding_models_have_prices_and_are_not_task_models() -> None:
    assert set(PROFILES.embeddings) == set(MODELS)
    assert all(profile.prices for profile in PROFILES.embeddings.values())
    assert not set(PROFILES.embeddings) & set(PROFILES.profiles)
    with pytest.raises(UserError, match="add it under `embeddings`"):
        dataclasses.replace(PROFILES, embeddings={}).embedding("gemini-embedding-2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("locations: [regions]\n    requests", "locations"),
        ("image: 0.0001}", "image"),
        ("regions: 600", "regions"),
    ],
)
def test_reports_mistakes_in_the_file(change: str, message: str) -> None:
    text = (TASK_DATA / "models.yaml").read_text(encoding="utf-8")
    bad = {
        "locations": "locations: []\n    requests",
        "image": "image: cheap}",
        "regions": "regions: 0",
    }[message]
    assert change in text
    with pytest.raises(UserError, match=message):
        load_models(text.replace(change, bad), "models.yaml")

"""Vertex AI of the local cloud, through the unchanged google-genai client and, where that mends, without it."""

import asyncio
import base64
import enum
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from google import genai
from google.cloud import aiplatform_v1 as aiplatform
from google.genai import errors, types
from support.vertex_local import JSON_CONFIG, MODEL, SCHEMA, Place, file_part, gemini, open_place, picture, user

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.vertex.generate.images import sniff
from imagebeam.transforms.core.records import Status
from imagebeam.transforms.gemini.error_classes import FailureKind, classify_http


@pytest.fixture(scope="module")
def place(cloud: LocalCloud) -> Iterator[Place]:
    opened = open_place(cloud, "vertex-pictures")
    yield opened
    shutil.rmtree(cloud.directory / "storage" / opened.bucket)


@pytest.fixture(scope="module")
def client(cloud: LocalCloud) -> Iterator[genai.Client]:
    with gemini(cloud) as opened:
        yield opened


@pytest.fixture(scope="module")
def uri(place: Place) -> str:
    return place.put("2025/obs:1/front.jpg")


def image(uri: str) -> types.Part:
    return types.Part.from_uri(file_uri=uri, mime_type="image/jpeg")


Content = list[types.PartUnionDict]


def about(uri: str, question: str) -> Content:
    return [image(uri), question]


def config(**settings: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(response_mime_type="application/json", response_schema=SCHEMA, **settings)


def test_answer_matches_the_schema_and_reports_usage(client: genai.Client, uri: str) -> None:
    labels = {"run": "r-1"}
    answer = client.models.generate_content(
        model=MODEL, contents=about(uri, "Which is it?"), config=config(labels=labels, temperature=0.0)
    )
    parsed = json.loads(answer.text or "")
    assert parsed["category"] in ("SIGN", "POLE")
    assert 0 <= parsed["confidence"] <= 1
    assert list(parsed)[:2] == ["category", "confidence"]
    usage = answer.usage_metadata
    assert usage is not None
    assert {detail.modality: detail.token_count for detail in usage.prompt_tokens_details or []}[
        types.MediaModality.IMAGE
    ] == 1120
    assert usage.total_token_count == (usage.prompt_token_count or 0) + (usage.candidates_token_count or 0)
    assert usage.traffic_type == "ON_DEMAND"
    assert answer.model_version == "imagebeam-emulator"
    assert answer.candidates
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.create_time is not None


def test_same_request_gets_the_same_answer_with_another_id(client: genai.Client, uri: str) -> None:
    contents = about(uri, "Which is it?")
    first, second = (client.models.generate_content(model=MODEL, contents=contents, config=config()) for _ in "12")
    assert first.text == second.text
    assert first.response_id != second.response_id


def test_async_client_works(cloud: LocalCloud, uri: str) -> None:
    async def ask() -> list[types.GenerateContentResponse]:
        async with gemini(cloud).aio as client:
            calls = (client.models.generate_content(model=MODEL, contents=about(uri, "What?")) for _ in range(5))
            return list(await asyncio.gather(*calls))

    assert all(answer.text for answer in asyncio.run(ask()))
    assert cloud.counters()["vertex"]["answered_per_uri"] == {uri: 5}


def test_free_text_describes_the_image(client: genai.Client, uri: str) -> None:
    answer = client.models.generate_content(model=MODEL, contents=about(uri, "Describe it."))
    assert "160 × 120" in (answer.text or "")


def test_inline_image_gets_the_answer_of_the_stored_image(client: genai.Client, cloud: LocalCloud, uri: str) -> None:
    inline = types.Part.from_bytes(data=picture(), mime_type="image/jpeg")
    both: list[Content] = [[inline, "?"], about(uri, "?")]
    texts = {client.models.generate_content(model=MODEL, contents=contents).text for contents in both}
    assert len(texts) == 1
    named = cloud.counters()["vertex"]["answered_per_uri"]
    assert sorted(name.partition(":")[0] for name in named) == ["gs", "inline"]


def test_enum_answer_is_plain_text(client: genai.Client, uri: str) -> None:
    class Thing(enum.Enum):
        ROAD = "ROAD"
        POLE = "POLE"

    asked = types.GenerateContentConfig(response_mime_type="text/x.enum", response_schema=Thing)
    answer = client.models.generate_content(model=MODEL, contents=about(uri, "?"), config=asked)
    assert isinstance(answer.parsed, Thing)


def test_json_without_schema_is_json(place: Place, uri: str) -> None:
    body = {"contents": user(file_part(uri), "?"), "generationConfig": {"responseMimeType": "application/json"}}
    text = place.post(body).json()["candidates"][0]["content"]["parts"][0]["text"]
    assert isinstance(json.loads(text), dict)


def test_accepts_snake_case_at_every_level(place: Place, uri: str) -> None:
    body = {
        "contents": {"role": "user", "parts": {"file_data": {"file_uri": uri, "mime_type": "image/jpeg"}}},
        "system_instruction": {"parts": [{"text": "You are an inspector."}]},
        "generation_config": {
            "response_mime_type": "application/json",
            "response_schema": {
                "type": "object",
                "properties": {"a": {"type": "array", "items": {"type": "integer"}, "max_items": "2"}},
                "property_ordering": ["a"],
            },
            "media_resolution": "MEDIA_RESOLUTION_LOW",
            "thinking_config": {"thinking_level": "LOW"},
        },
    }
    answer = place.post(body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usageMetadata"]["thoughtsTokenCount"] == 150


@pytest.mark.parametrize(
    ("model", "settings", "part", "tokens"),
    [
        ("gemini-2.5-flash", {}, {}, 258),
        (MODEL, {}, {}, 1120),
        (MODEL, {"mediaResolution": "MEDIA_RESOLUTION_LOW"}, {}, 280),
        (MODEL, {"mediaResolution": "MEDIA_RESOLUTION_MEDIUM"}, {}, 560),
        (MODEL, {"mediaResolution": "MEDIA_RESOLUTION_LOW"}, {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}, 2240),
    ],
)
def test_image_tokens_follow_media_resolution(
    place: Place, uri: str, model: str, settings: dict[str, str], part: dict[str, str], tokens: int
) -> None:
    asked = file_part(uri) | ({"mediaResolution": part} if part else {})
    body = {"contents": user(asked, "12345"), "generationConfig": settings}
    usage = place.post(body, model=model).json()["usageMetadata"]
    assert usage["promptTokensDetails"] == [
        {"modality": "TEXT", "tokenCount": 2},
        {"modality": "IMAGE", "tokenCount": tokens},
    ]


def test_output_limit_truncates_the_answer(client: genai.Client, uri: str) -> None:
    answer = client.models.generate_content(model=MODEL, contents=about(uri, "?"), config=config(max_output_tokens=3))
    assert answer.candidates
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert answer.parsed is None
    assert len(answer.text or "") == 12


def test_thoughts_count_against_the_output_limit(client: genai.Client, uri: str) -> None:
    answer = client.models.generate_content(
        model="gemini-3.5-flash", contents=about(uri, "?"), config=config(max_output_tokens=100)
    )
    assert answer.candidates
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert answer.text is None
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.thoughts_token_count == 100


def test_thoughts_are_included_on_request_outside_the_text(client: genai.Client, uri: str) -> None:
    thinking = types.ThinkingConfig(include_thoughts=True, thinking_level=types.ThinkingLevel.HIGH)
    answer = client.models.generate_content(
        model=MODEL, contents=about(uri, "?"), config=config(thinking_config=thinking)
    )
    assert answer.candidates
    assert answer.candidates[0].content is not None
    assert [part.thought for part in answer.candidates[0].content.parts or []] == [True, None]
    assert json.loads(answer.text or "")


def test_stop_sequence_ends_the_answer(client: genai.Client, uri: str) -> None:
    asked = types.GenerateContentConfig(stop_sequences=["photograph"])
    answer = client.models.generate_content(model=MODEL, contents=about(uri, "?"), config=asked)
    assert "photograph" not in (answer.text or "photograph")


@pytest.mark.parametrize(("lane", "traffic"), [("flex", "ON_DEMAND_FLEX"), ("priority", "ON_DEMAND_PRIORITY")])
def test_lane_headers_set_the_traffic_type(client: genai.Client, uri: str, lane: str, traffic: str) -> None:
    headers = {"X-Vertex-AI-LLM-Shared-Request-Type": lane, "X-Vertex-AI-LLM-Request-Type": "shared"}
    answer = client.models.generate_content(
        model=MODEL,
        contents=about(uri, "?"),
        config=types.GenerateContentConfig(http_options=types.HttpOptions(headers=headers)),
    )
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.traffic_type == traffic


def test_count_tokens_matches_usage_and_reads_images(client: genai.Client, place: Place, uri: str) -> None:
    contents = about(uri, "How many?")
    counted = client.models.count_tokens(model=MODEL, contents=contents)
    billed = client.models.generate_content(model=MODEL, contents=contents)
    assert billed.usage_metadata is not None
    assert counted.total_tokens == billed.usage_metadata.prompt_token_count
    with pytest.raises(errors.ClientError, match=r"gone\.jpg") as caught:
        client.models.count_tokens(model=MODEL, contents=about(f"gs://{place.bucket}/gone.jpg", "?"))
    assert caught.value.code == 404


def test_gets_a_model(cloud: LocalCloud, client: genai.Client) -> None:
    assert client.models.get(model=MODEL).name == f"publishers/google/models/{MODEL}"
    with pytest.raises(errors.ClientError, match="was not found or your project does not have access"):
        client.models.get(model="gemini-1.5-flash")
    cloud.faults(vertex={"retired_models": [MODEL]})
    with pytest.raises(errors.ClientError) as caught:
        client.models.get(model=MODEL)
    assert caught.value.status == "NOT_FOUND"


def test_replaced_image_is_measured_again(client: genai.Client, place: Place) -> None:
    uri = place.put("changing.jpg", picture(size=(100, 90)))
    assert "100 × 90" in (client.models.generate_content(model=MODEL, contents=about(uri, "?")).text or "")
    place.put("changing.jpg", picture(size=(90, 100)))
    assert "90 × 100" in (client.models.generate_content(model=MODEL, contents=about(uri, "?")).text or "")


def test_accepts_only_tokens_of_the_token_endpoint(place: Place, cloud: LocalCloud) -> None:
    for header in ("", "Bearer ya29.real-looking", "Bearer local-", "Bearer local-1", "Basic local-1"):
        answer = place.post({"contents": user("?")}, headers={"Authorization": header})
        assert answer.status_code == 401
        assert answer.json()["error"]["status"] == "UNAUTHENTICATED"
    assert cloud.counters()["vertex"]["by_status"] == {"401": 5}


@pytest.mark.parametrize(
    ("model", "location", "code"),
    [
        (MODEL, "us", 200),
        (MODEL, "us-central1", 404),
        ("gemini-2.5-flash", "us-central1", 200),
        ("gemini-2.5-flash", "eu", 404),
        ("gemini-3.6-flash", "global", 404),
        ("gemini-9", "global", 404),
    ],
)
def test_model_is_served_in_its_locations_only(place: Place, model: str, location: str, code: int) -> None:
    answer = place.post({"contents": user("Hello")}, model=model, location=location)
    assert answer.status_code == code
    if code == 404:
        assert f"locations/{location}/publishers/google/models/{model}` was not found" in answer.text


@pytest.mark.parametrize(
    ("name", "data", "declared", "code", "reason"),
    [
        ("not-there.jpg", None, "image/jpeg", 404, "NOT_FOUND"),
        ("really.png", picture("PNG"), "image/jpeg", 400, "UNREADABLE"),
        ("text.jpg", b"no picture", "image/jpeg", 400, "UNREADABLE"),
        ("cut.jpg", picture(size=(900, 900))[:3000], "image/jpeg", 400, "UNREADABLE"),
        ("empty.jpg", b"", "image/jpeg", 400, "UNREADABLE"),
        ("moving.gif", picture("GIF"), "image/gif", 400, "UNSUPPORTED"),
        ("huge.jpg", picture() + bytes(31 * 1024 * 1024), "image/jpeg", 400, "TOO_LARGE"),
    ],
)
def test_invalid_file_is_an_error_that_names_the_file(
    place: Place, name: str, data: bytes | None, declared: str, code: int, reason: str
) -> None:
    uri = place.put(name, data) if data is not None else f"gs://{place.bucket}/{name}"
    answer = place.post({"contents": user(file_part(uri, declared), "?")})
    assert answer.status_code == code
    failure = classify_http(answer.status_code, answer.content, answer.headers)
    assert (failure.kind, failure.status, failure.reason) == (FailureKind.UNIT, Status.IMAGE_ERROR, reason)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_detects_image_types_by_their_bytes(place: Place, kind: str) -> None:
    data = picture(kind)
    assert sniff(data) == f"image/{kind.lower()}"
    uri = place.put(f"any-{kind}", data)
    assert place.post({"contents": user(file_part(uri, f"image/{kind.lower()}"))}).status_code == 200


BAD_REQUESTS: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown field", {"serviceTier": "flex"}, 'Unknown name \\"serviceTier\\": Cannot find field'),
    ("no contents", {"contents": []}, "at least one contents field"),
    ("a bad role", {"contents": [{"role": "system", "parts": [{"text": "?"}]}]}, "valid role: user, model"),
    ("no role", {"contents": [{"parts": [{"text": "?"}]}]}, "valid role: user, model"),
    ("no parts", {"contents": [{"role": "user", "parts": []}]}, "at least one parts field"),
    ("an empty part", {"contents": user({})}, "required oneof field 'data'"),
    ("an empty text", {"contents": user("")}, "empty text parameter"),
    ("a doubled field", {"labels": {}, "generationConfig": {"topP": 1, "top_p": 1}}, "is set twice"),
    ("a last turn of the model", {"contents": [*user("?"), {"role": "model", "parts": [{"text": "A"}]}]}, "last turn"),
    ("another type", {"contents": user(file_part("gs://b/o", "image/gif"))}, "mimeType parameter with value image/gif"),
    ("no type", {"contents": user({"fileData": {"fileUri": "gs://b/o"}})}, "must have a mimeType parameter"),
    ("a bucket alone", {"contents": user(file_part("gs://bucket"))}, "Invalid file_uri"),
    ("no base64", {"contents": user({"inlineData": {"mimeType": "image/jpeg", "data": "%"}})}, "Base64 decoding"),
    ("a capital label", {"labels": {"Run": "x"}}, "Invalid label key"),
    ("a long label", {"labels": {"run": "x" * 64}}, "Invalid value of label"),
    ("many labels", {"labels": {f"k{number}": "" for number in range(65)}}, "Too many labels"),
    ("an unknown harm", {"safetySettings": [{"category": "RUDE", "threshold": "OFF"}]}, "safety_settings[0].category"),
    ("two ways of safety", {"safetySettings": [], "modelArmorConfig": {}}, "Only one of"),
    ("a hot temperature", {"generationConfig": {"temperature": 3}}, "supported range is from 0"),
    ("a penalty", {"generationConfig": {"frequencyPenalty": 0.5}}, "Penalty is not supported"),
    ("an unknown setting", {"generationConfig": {"max_tokens": 5}}, "Cannot find field"),
    ("an unknown type of answer", {"generationConfig": {"responseMimeType": "text/xml"}}, "response_mime_type"),
    ("a schema for text", {"generationConfig": {"responseSchema": SCHEMA}}, "only supported with response_mime_type"),
    ("an enum without values", {"generationConfig": {"responseMimeType": "text/x.enum"}}, "response_schema.type"),
    ("an ultra high prompt", {"generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_ULTRA_HIGH"}}, "per part"),
    ("an unknown resolution", {"generationConfig": {"mediaResolution": "HIGH"}}, "media_resolution"),
    (
        "thinking said twice",
        {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 1}}},
        "only one of thinking budget and thinking level",
    ),
]


@pytest.mark.parametrize(("body", "said"), [case[1:] for case in BAD_REQUESTS], ids=[case[0] for case in BAD_REQUESTS])
def test_rejects_requests_that_gemini_rejects(place: Place, body: dict[str, Any], said: str) -> None:
    answer = place.post({"contents": user("?")} | body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert said in answer.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "TEXT"}, "response_schema.type"),
        ({"oneOf": []}, 'Unknown name \\"oneOf\\"'),
        ({"additionalProperties": False}, 'Unknown name \\"additionalProperties\\"'),
        ({"type": "OBJECT", "properties": {}}, "should be non-empty for OBJECT type"),
        ({"type": "ARRAY"}, "items': missing field"),
        ({"required": ["missing"]}, "required[0]': property is not defined"),
        ({"propertyOrdering": ["a", "missing"]}, "propertyOrdering[1]': property is not defined"),
        ({"properties": {"a": {"type": "NUMBER", "enum": ["1"]}}}, "enum': only allowed for STRING type"),
        ({"properties": {"a": {"type": "STRING", "enum": []}}}, "properties[a].enum"),
        ({"properties": {"a": {"type": "STRING", "enum": [""]}}}, "enum[0]': cannot be empty"),
        ({"properties": {"a": {"type": "STRING", "format": "email"}}}, "supported for STRING type"),
        ({"properties": {"a": {"type": "STRING", "maximum": 1}}}, "only allowed for NUMBER"),
        ({"properties": {"a": {"type": "STRING", "maxItems": 1}}}, "is not allowed for type STRING"),
        ({"properties": {"a": {"type": ["STRING", "NULL"]}}}, "properties[a].type"),
        ({"nullable": "yes"}, "must be true or false"),
        ({"anyOf": []}, "must be a list of schemas"),
    ],
)
def test_rejects_schema_outside_the_supported_subset(place: Place, change: dict[str, Any], said: str) -> None:
    schema = {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}} | change
    body = {"contents": user("?"), "generationConfig": JSON_CONFIG | {"responseSchema": schema}}
    answer = place.post(body)
    assert answer.status_code == 400, answer.text
    assert said in answer.text


@pytest.mark.parametrize(
    ("model", "thinking", "thoughts"),
    [
        ("gemini-2.5-flash", {"thinkingBudget": 0}, 0),
        ("gemini-2.5-flash", {}, 500),
        ("gemini-2.5-flash", {"thinkingBudget": 24576}, 1500),
        ("gemini-2.5-flash", {"thinkingBudget": 24577}, None),
        ("gemini-2.5-flash", {"thinkingLevel": "LOW"}, None),
        ("gemini-2.5-flash-lite", {}, 0),
        ("gemini-2.5-flash-lite", {"thinkingBudget": 100}, None),
        ("gemini-2.5-flash-lite", {"thinkingBudget": 512}, 512),
        (MODEL, {}, 0),
        (MODEL, {"thinkingLevel": "HIGH"}, 1500),
        (MODEL, {"thinkingLevel": "DEEP"}, None),
        ("gemini-3.5-flash", {}, 500),
        ("gemini-3.7-flash", {"thinkingLevel": "MINIMAL"}, None),
        ("gemini-3.7-flash", {"thinkingLevel": "LOW"}, 150),
    ],
)
def test_thinking_settings_follow_the_model(
    place: Place, model: str, thinking: dict[str, Any], thoughts: int | None
) -> None:
    body = {"contents": user("?"), "generationConfig": {"thinkingConfig": thinking}}
    answer = place.post(body, model=model)
    if thoughts is None:
        assert answer.status_code == 400
    else:
        assert answer.json()["usageMetadata"].get("thoughtsTokenCount", 0) == thoughts


@pytest.mark.parametrize(
    ("model", "location", "lane", "said"),
    [
        (MODEL, "us", "flex", "only supported on the global endpoint"),
        ("gemini-2.5-flash", "global", "flex", "not supported for model"),
        ("gemini-2.5-flash", "us-central1", "priority", "only supported on the global endpoint"),
        (MODEL, "global", "fast", "Invalid value for header"),
    ],
)
def test_rejects_lane_that_the_location_lacks(place: Place, model: str, location: str, lane: str, said: str) -> None:
    headers = {"X-Vertex-AI-LLM-Shared-Request-Type": lane}
    answer = place.post({"contents": user("?")}, model=model, location=location, headers=headers)
    assert answer.status_code == 400
    assert said in answer.text


def test_rejects_inline_data_above_the_limit(place: Place) -> None:
    def ask(size: int, count: int) -> requests.Response:
        data = base64.b64encode(picture() + bytes(size)).decode()
        return place.post({"contents": user(*[{"inlineData": {"mimeType": "image/jpeg", "data": data}}] * count)})

    assert ask(6 * 1024 * 1024, 1).status_code == 200
    for answer, said in ((ask(7 * 1024 * 1024, 1), "too large"), (ask(6 * 1024 * 1024, 3), "payload size exceeds")):
        assert answer.status_code == 400
        assert said in answer.text
        assert classify_http(400, answer.content, answer.headers).reason == "TOO_LARGE"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"tools": [{"googleSearch": {}}]}, "tools"),
        ({"cachedContent": "projects/p/locations/l/cachedContents/1"}, "cachedContent"),
        ({"generationConfig": {"responseJsonSchema": {}}}, "responseJsonSchema"),
        ({"generationConfig": {"candidateCount": 2}}, "candidateCount"),
        ({"contents": user(file_part("gs://b/film.mp4", "video/mp4"))}, "video/mp4"),
        ({"contents": user(file_part("https://example.org/a.jpg"))}, "of the Web"),
    ],
)
def test_features_that_are_not_implemented_are_501(place: Place, body: dict[str, Any], named: str) -> None:
    answer = place.post({"contents": user("?")} | body)
    assert answer.status_code == 501
    assert named in answer.text


def test_methods_that_are_not_implemented_are_501(place: Place) -> None:
    answer = place.post({"contents": user("?")}, method="streamGenerateContent")
    assert answer.status_code == 501
    assert "streamGenerateContent" in answer.text


# Tuned models


def get(place: Place, path: str, location: str = "us-central1") -> requests.Response:
    url = f"{place.cloud.url}/v1/projects/{place.cloud.project}/locations/{location}/{path}"
    return requests.get(url, headers={"Authorization": f"Bearer {place.token}"}, timeout=30)


def test_tuned_models_and_endpoints_refer_to_each_other(place: Place) -> None:
    model = aiplatform.Model.from_json(get(place, "models/8150").text, ignore_unknown_fields=False)
    assert (model.version_id, list(model.version_aliases)) == ("2", ["default"])
    (reference,) = model.deployed_models
    name = reference.endpoint.partition("/locations/us-central1/")[2]
    endpoint = aiplatform.Endpoint.from_json(get(place, name).text, ignore_unknown_fields=False)
    (deployed,) = endpoint.deployed_models
    assert (deployed.id, deployed.model, deployed.model_version_id) == (reference.deployed_model_id, model.name, "2")
    assert dict(endpoint.traffic_split) == {deployed.id: 100}
    listed = aiplatform.ListEndpointsResponse.from_json(get(place, "endpoints").text, ignore_unknown_fields=False)
    assert [len(each.deployed_models) for each in listed.endpoints] == [1, 2]
    assert "deployedModels" not in get(place, "models/8151").json()
    assert "deployedModels" not in get(place, "models/8150@1").json()
    assert get(place, "models/8150@default").json() == get(place, "models/8150").json()


@pytest.mark.parametrize(
    ("path", "location"),
    [("models/1", "us-central1"), ("models/8150@7", "us-central1"), ("endpoints/1", "us-central1"),
     ("models/8150", "global"), ("endpoints/4711", "eu")],
)  # fmt: skip
def test_tuned_models_exist_in_regions_only(place: Place, path: str, location: str) -> None:
    answer = get(place, path, location)
    assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")


def test_only_the_endpoint_of_a_tuned_model_takes_calls(cloud: LocalCloud, uri: str) -> None:
    with gemini(cloud, "us-central1") as regional:
        place = f"projects/{cloud.project}/locations/us-central1"
        asked = about(uri, "Which is it?")
        assert regional.models.generate_content(model=f"{place}/endpoints/4711", contents=asked).text
        for name in ("endpoints/1", "models/8150"):
            with pytest.raises(errors.APIError) as caught:
                regional.models.generate_content(model=f"{place}/{name}", contents=asked)
            assert caught.value.code in (404, 501)


def test_tuned_models_need_permission(place: Place) -> None:
    place.cloud.faults(access={"denied": [{"permission": "aiplatform.endpoints.get"}]})
    assert get(place, "endpoints/4711").status_code == 403
    assert get(place, "models/8150").status_code == 200

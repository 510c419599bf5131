"""``predict`` and ``embedContent`` of the local Vertex AI: Google's shapes, limits and failures."""

import base64
import io
import json
import math
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import google.auth
import pytest
from google import genai
from google.auth.transport.requests import AuthorizedSession
from google.genai import errors, types
from PIL import Image
from support.vertex_local import Place, file_part, gemini, open_place, picture

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.images import Picture, render

OLD, NEW = "multimodalembedding@001", "gemini-embedding-2"


@pytest.fixture(scope="module")
def place(cloud: LocalCloud) -> Iterator[Place]:
    opened = open_place(cloud, "embeddings")
    opened.put("a.jpg", picture())
    opened.put("b.png", picture("PNG"))
    opened.put("w.webp", picture("WEBP"))
    opened.put("cut.jpg", picture()[:200])
    for photo in ("cat", "grass"):
        for name, box in {"whole": (0, 0, 240, 180), "crop": (10, 10, 230, 170)}.items():
            opened.put(f"{photo}-{name}.jpg", render(Picture(photo, box, (200, 150), "plain")))
    yield opened
    shutil.rmtree(cloud.directory / "storage" / opened.bucket)


@pytest.fixture(scope="module")
def client(cloud: LocalCloud) -> Iterator[genai.Client]:
    with gemini(cloud) as opened:
        yield opened


def predict(place: Place, instance: Any, *, location: str = "us-central1", model: str = OLD, **parameters: Any) -> Any:
    """Ask as the job does: google-auth and plain REST."""
    credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    path = f"projects/{project}/locations/{location}/publishers/google/models/{model}:predict"
    body: Any = {"instances": instance if isinstance(instance, list) else [instance], "parameters": parameters}
    with AuthorizedSession(credentials) as session:
        return session.post(f"{place.cloud.url}/v1/{path}", json=body, timeout=120)


def embed(client: genai.Client, *parts: Any, **config: Any) -> types.EmbedContentResponse:
    return client.models.embed_content(model=NEW, contents=list(parts), config=types.EmbedContentConfig(**config))


def part(place: Place, name: str, kind: str = "image/jpeg") -> types.Part:
    return types.Part.from_uri(file_uri=f"gs://{place.bucket}/{name}", mime_type=kind)


def likeness(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dimension", [128, 256, 512, 1408, None])
def test_predict_returns_image_and_text_vectors(place: Place, dimension: int | None) -> None:
    instance = {"image": {"gcsUri": f"gs://{place.bucket}/a.jpg", "mimeType": "image/jpeg"}, "text": "dark"}
    given: dict[str, Any] = {} if dimension is None else {"dimension": dimension}
    answer = predict(place, instance, **given).json()
    (prediction,) = answer["predictions"]
    assert set(prediction) == {"imageEmbedding", "textEmbedding"}
    assert answer["deployedModelId"]
    for vector in prediction.values():
        assert len(vector) == (dimension or 1408)
        assert math.isclose(likeness(vector, vector), 1, rel_tol=1e-9)


def test_predict_accepts_bytes_and_snake_case(place: Place) -> None:
    by_uri = predict(place, {"image": {"gcs_uri": f"gs://{place.bucket}/a.jpg"}}, dimension=512.0).json()
    encoded = base64.b64encode(picture()).decode()
    by_bytes = predict(
        place, {"image": {"bytes_base64_encoded": encoded}}, dimension=512, model="multimodalembedding%40001"
    )
    assert by_uri == by_bytes.json()
    assert len(by_uri["predictions"][0]["imageEmbedding"]) == 512


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PNG"])
def test_predict_accepts_every_image_format(place: Place, kind: str) -> None:
    instance = {"image": {"bytesBase64Encoded": base64.b64encode(picture(kind)).decode()}}
    assert predict(place, instance).status_code == 200


@pytest.mark.parametrize(
    ("instance", "parameters", "code", "said"),
    [
        ({"image": {"gcsUri": "gs://embeddings/a.jpg"}}, {"dimension": 768}, 400, "128, 256, 512 and 1408"),
        ({"image": {"gcsUri": "gs://embeddings/a.jpg"}}, {"dimension": "x"}, 400, "not an integer"),
        ({"image": {"gcsUri": "gs://embeddings/a.jpg"}}, {"size": 5}, 400, "Unknown name"),
        ({"image": {"gcsUri": "gs://embeddings/none.jpg"}}, {}, 404, "does not exist"),
        ({"image": {"gcsUri": "s3://embeddings/a.jpg"}}, {}, 400, "Cloud Storage URI"),
        ({"image": {"gcsUri": "gs://embeddings/cut.jpg"}}, {}, 400, "Unable to process"),
        ({"image": {"gcsUri": "gs://embeddings/w.webp"}}, {}, 400, "image/webp"),
        ({"image": {"bytesBase64Encoded": "?"}}, {}, 400, "Base64"),
        ({"image": {"bytesBase64Encoded": "aGk="}}, {}, 400, "Unable to process"),
        ({"image": {"gcsUri": "gs://embeddings/a.jpg", "bytesBase64Encoded": "aGk="}}, {}, 400, "exactly one"),
        ({"image": {}}, {}, 400, "exactly one"),
        ({"image": {"gcsUri": "gs://embeddings/a.jpg", "mimeType": "image/tiff"}}, {}, 400, "image/tiff"),
        ({"text": "word " * 40}, {}, 400, "limit is 32"),
        ({}, {}, 400, "at least one"),
        ([], {}, 400, "Exactly 1 instance"),
        ([{"text": "a"}, {"text": "b"}], {}, 400, "Exactly 1 instance"),
        ({"video": {"gcsUri": "gs://embeddings/a.mp4"}}, {}, 501, "videos"),
    ],
)
def test_predict_returns_the_errors_of_google(
    place: Place, instance: Any, parameters: dict[str, Any], code: int, said: str
) -> None:
    answer = predict(place, instance, **parameters)
    assert answer.status_code == code
    assert answer.json()["error"]["code"] == code
    assert said in answer.json()["error"]["message"]


def test_models_are_served_in_their_locations(place: Place) -> None:
    text = {"text": "dark"}
    content = {"content": {"role": "user", "parts": [{"text": "dark"}]}}
    assert [predict(place, text, location=where).status_code for where in ("europe-west4", "global", "us", "eu")] == [
        200, 404, 404, 404,
    ]  # fmt: skip
    assert [
        place.post(content, method="embedContent", model=NEW, location=where).status_code
        for where in ("global", "us", "eu", "us-central1")
    ] == [200, 200, 200, 404]
    assert place.post(content, method="embedContent", model=OLD, location="us-central1").status_code == 400
    assert place.post({"contents": []}, model=NEW).status_code == 404


def test_rejects_retired_model_and_call_without_token(place: Place, cloud: LocalCloud) -> None:
    cloud.faults(vertex={"retired_models": [OLD]})
    assert predict(place, {"text": "dark"}).status_code == 404
    cloud.faults(vertex={})
    body = {"instances": [{"text": "dark"}]}
    answer = place.post(body, method="predict", model=OLD, location="us-central1", headers={"Authorization": ""})
    assert answer.status_code == 401


def test_client_gets_a_vector_with_usage(place: Place, client: genai.Client) -> None:
    answer = embed(client, part(place, "a.jpg"), output_dimensionality=768)
    assert answer.embeddings
    (found,) = answer.embeddings
    assert found.values
    assert len(found.values) == 768
    assert math.isclose(likeness(found.values, found.values), 1, rel_tol=1e-9)
    assert found.statistics
    assert found.statistics.token_count == 258


def test_raw_response_has_the_documented_shape(place: Place) -> None:
    body = {"content": {"role": "user", "parts": [{"file_data": {"file_uri": f"gs://{place.bucket}/b.png",
            "mime_type": "image/png"}}, {"text": "blurry"}]}}  # fmt: skip
    answer = place.post(body, method="embedContent", model=NEW).json()
    assert len(answer["embedding"].pop("values")) == 3072
    assert answer == {
        "embedding": {},
        "usageMetadata": {
            "promptTokenCount": 260,
            "totalTokenCount": 260,
            "promptTokensDetails": [{"modality": "IMAGE", "tokenCount": 258}, {"modality": "TEXT", "tokenCount": 2}],
        },
        "truncated": False,
    }


def test_crops_of_a_photo_are_nearer_than_another_photo(place: Place, client: genai.Client) -> None:
    found = {}
    for name in ("cat-whole", "cat-crop", "grass-whole", "grass-crop"):
        answer = embed(client, part(place, f"{name}.jpg"), output_dimensionality=256)
        assert answer.embeddings
        found[name] = answer.embeddings[0].values or []
    assert likeness(found["cat-whole"], found["cat-crop"]) > likeness(found["cat-whole"], found["grass-crop"]) + 0.2
    assert likeness(found["grass-whole"], found["grass-crop"]) > likeness(found["grass-whole"], found["cat-crop"]) + 0.2


def test_inline_images_and_several_parts_are_one_vector(place: Place, client: genai.Client) -> None:
    inline = types.Part.from_bytes(data=picture("PNG"), mime_type="image/png")
    alone = embed(client, inline, output_dimensionality=64).embeddings
    stored = embed(client, part(place, "b.png", "image/png"), output_dimensionality=64).embeddings
    assert alone
    assert stored
    assert alone[0].values == stored[0].values
    six = embed(client, types.Content(role="user", parts=[inline] * 6), output_dimensionality=64).embeddings
    assert six
    assert six[0].values
    assert likeness(six[0].values, alone[0].values or []) == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "config", "said"),
    [
        ([{"text": "a"}], {"outputDimensionality": 0}, "between 1 and 3072"),
        ([{"text": "a"}], {"outputDimensionality": 3073}, "between 1 and 3072"),
        ([{"text": "a"}], {"taskType": "RETRIEVAL_QUERY"}, "task_type"),
        ([{"text": "a" * 40_000}], {"autoTruncate": False}, "10000"),
        ([{"text": ""}], {}, "empty text"),
        ([], {}, "parts"),
        ([file_part("gs://embeddings/a.jpg")] * 7, {}, "At most 6"),
        ([file_part("gs://embeddings/a.jpg", "image/gif")], {}, "image/gif"),
        ([{"inlineData": {"mimeType": "image/png", "data": ""}}], {}, "no data"),
        ([{"text": "a", "inlineData": {}}], {}, "oneof"),
    ],
)
def test_embed_content_returns_the_errors_of_google(place: Place, content: Any, config: Any, said: str) -> None:
    body = {"content": {"role": "user", "parts": content}, "embedContentConfig": config}
    answer = place.post(body, method="embedContent", model=NEW)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_long_text_is_truncated_and_marked(place: Place) -> None:
    body = {"content": {"parts": [{"text": "a" * 40_000}]}, "outputDimensionality": 16}
    answer = place.post(body, method="embedContent", model=NEW).json()
    assert answer["truncated"] is True
    assert answer["usageMetadata"]["totalTokenCount"] == 8192


def test_fixed_quota_has_its_own_error_message(place: Place, cloud: LocalCloud) -> None:
    cloud.faults(vertex={"quota": {"requests_per_minute": 0, "burst": 1}})
    assert predict(place, {"text": "dark"}).status_code == 200
    refused = predict(place, {"text": "dark"})
    assert refused.status_code == 429
    assert "online_prediction_requests_per_base_model" in refused.json()["error"]["message"]
    assert refused.json()["error"]["status"] == "RESOURCE_EXHAUSTED"


def test_faults_apply_per_method_and_are_counted(place: Place, cloud: LocalCloud, client: genai.Client) -> None:
    cloud.faults(
        vertex={
            "rules": [
                {"method": "embedContent", "match": "a.jpg", "times": 1, "do": "http", "code": 503},
                {"method": "predict", "match": "b.png", "times": 1, "do": "garbage"},
            ]
        }
    )
    with pytest.raises(errors.ServerError):
        embed(client, part(place, "a.jpg"))
    assert embed(client, part(place, "a.jpg")).embeddings
    image = {"image": {"gcsUri": f"gs://{place.bucket}/b.png"}}
    with pytest.raises(json.JSONDecodeError):
        predict(place, image).json()
    assert predict(place, image).json()["predictions"]
    counted = cloud.counters()["vertex"]
    assert counted["by_method"] == {"embedContent": 2, "predict": 2}
    assert counted["by_status"] == {"200": 3, "503": 1}
    assert counted["per_uri"] == {f"gs://{place.bucket}/a.jpg": 2, f"gs://{place.bucket}/b.png": 2}
    assert counted["answered_per_uri"] == {f"gs://{place.bucket}/a.jpg": 1, f"gs://{place.bucket}/b.png": 1}


def test_client_drops_images_for_the_old_model_and_the_service_rejects_that(place: Place, cloud: LocalCloud) -> None:
    """What the project works around: here it is an error, so that nobody takes an empty vector for an answer."""
    with gemini(cloud, "us-central1") as regional, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(errors.ClientError, match="instances"):
            regional.models.embed_content(model=OLD, contents=part(place, "a.jpg"))


@pytest.mark.parametrize(("model", "location"), [(OLD, "us-central1"), (NEW, "global")])
def test_gets_an_embedding_model(cloud: LocalCloud, model: str, location: str) -> None:
    with gemini(cloud, location) as opened:
        assert str(opened.models.get(model=model).name).endswith(model)


def test_rejects_image_above_the_size_limit(place: Place) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (3000, 2400)).save(stream, "BMP")
    place.put("large.bmp", stream.getvalue())
    answer = predict(place, {"image": {"gcsUri": f"gs://{place.bucket}/large.bmp"}})
    assert answer.status_code == 400
    assert "too large" in answer.json()["error"]["message"]

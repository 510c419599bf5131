"""The local embedding models: neighbours look alike, whatever the dimension; texts point to what they say."""

import io
import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagebeam.emulators.fake_model.image_vectors import DESCRIPTION_LENGTH, Vector, describe, embed, project
from imagebeam.emulators.fake_model.text_vectors import describe_text
from imagebeam.emulators.sample_data.images import Picture, photos, render
from imagebeam.emulators.sample_data.rows import Content, build_content

pytestmark = pytest.mark.long

DIMENSIONS = (128, 256, 512, 768, 1408, 3072)


def embed_text(text: str, dimension: int, space: str) -> list[float]:
    return project(describe_text(text), dimension, space)


@pytest.fixture(scope="module")
def demo() -> list[tuple[Picture, Vector]]:
    """The pictures of the demo with their descriptions, without the one whose file is cut off."""
    content: Content = build_content(300, 0)
    return [(picture, describe(content.data(name))) for name, (picture, cut) in content.objects.items() if not cut]


def vectors(demo: list[tuple[Picture, Vector]], dimension: int) -> npt.NDArray[np.float64]:
    return np.array([project(description, dimension, "m") for _, description in demo])


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_five_nearest_neighbors_show_the_same_photo(demo: list[tuple[Picture, Vector]], dimension: int) -> None:
    found = vectors(demo, dimension)
    likeness = found @ found.T
    np.fill_diagonal(likeness, -1)
    names = np.array([picture.photo for picture, _ in demo])
    nearest = np.argsort(-likeness, axis=1)[:, :5]
    assert (names[nearest] == names[:, None]).mean() >= 0.9


def test_variants_of_a_photo_are_nearer_than_other_photos() -> None:
    made = {}
    for photo in photos():
        whole = (20, 20, 260, 200)
        for name, picture in {
            "whole": Picture(photo, whole, (240, 180), "plain"),
            "crop": Picture(photo, (30, 30, 250, 190), (220, 160), "plain"),
            "small": Picture(photo, whole, (120, 90), "plain"),
            "dark": Picture(photo, whole, (240, 180), "dark"),
        }.items():
            made[photo, name] = np.array(embed(render(picture), 256))
    for photo, name in itertools.product(photos(), ("crop", "small", "dark")):
        likeness = {other: made[photo, name] @ made[other, "whole"] for other in photos()}
        assert max(likeness, key=lambda other: likeness[other]) == photo, name


@settings(max_examples=60)
@given(st.integers(1, 3072), st.sampled_from(["a", "b"]), st.integers(0, 2**32 - 1))
def test_vector_has_its_dimension_and_unit_length(dimension: int, space: str, seed: int) -> None:
    description = np.random.default_rng(seed).standard_normal(DESCRIPTION_LENGTH)
    vector = project(description, dimension, space)
    assert len(vector) == dimension
    assert math.isclose(math.fsum(value * value for value in vector), 1, rel_tol=1e-9)
    assert vector == project(description, dimension, space)


def test_dimensions_keep_angles_and_models_do_not_share_a_space(
    demo: list[tuple[Picture, Vector]],
) -> None:
    few = demo[:20]
    reference = vectors(few, 128) @ vectors(few, 128).T
    for dimension in DIMENSIONS[1:]:
        found = vectors(few, dimension)
        assert np.allclose(found @ found.T, reference)
    other = np.array([project(description, 512, "n") for _, description in few])
    assert abs(np.diag(vectors(few, 512) @ other.T)).max() < 0.3


@pytest.mark.parametrize("dimension", [0, -1, 3073])
def test_rejects_invalid_dimension(dimension: int) -> None:
    with pytest.raises(ValueError, match="1 to 3072"):
        project(np.ones(DESCRIPTION_LENGTH), dimension, "m")


def test_embeds_an_image_of_one_color() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "PNG")
    assert math.isclose(np.linalg.norm(embed(stream.getvalue(), 128)), 1)


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("a dark photograph", "dark"),
        ("overexposed", "overexposed"),
        ("low resolution", "low_resolution"),
        ("blurry", "blurred"),
        ("not sharp", "blurred"),
    ],
)
def test_text_finds_images_that_match_it(demo: list[tuple[Picture, Vector]], text: str, variant: str) -> None:
    order = np.argsort(-(vectors(demo, 512) @ np.array(embed_text(text, 512, "m"))))
    assert sum(demo[index][0].variant == variant for index in order[:5]) >= 4


@pytest.mark.parametrize(("text", "photo"), [("something red", "retina"), ("blue sky", "rocket"), ("green", "flower")])
def test_color_finds_the_photo_with_most_of_it(demo: list[tuple[Picture, Vector]], text: str, photo: str) -> None:
    order = np.argsort(-(vectors(demo, 128) @ np.array(embed_text(text, 128, "m"))))
    assert [demo[index][0].photo for index in order[:3]] == [photo] * 3


def test_text_without_visual_words_is_near_no_image(demo: list[tuple[Picture, Vector]]) -> None:
    pole, lamp = (np.array(embed_text(text, 512, "m")) for text in ("utility pole", "street lamp"))
    assert abs(vectors(demo, 512) @ pole).max() < 0.5
    assert abs(pole @ lamp) < 0.5
    assert math.isclose(np.linalg.norm(embed_text("", 512, "")), 1)

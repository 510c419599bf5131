"""What the local embedding models see: an image as a vector, so that pictures of one thing are neighbours.

No model was trained. A picture is described by what stays when it is cropped, scaled or exposed otherwise:
the spread of its tones, the directions of its edges, its fine texture at several scales, its hues. A smaller
part says what has a word (dark, blurry, green ...): there texts have their place (`embedding_text`). The
description is then turned by a fixed random rotation into as many dimensions as are asked for.
"""

import functools
import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagebeam.emulators.fake_model import pixels
from imagebeam.emulators.fake_model.image_words import look_at

Vector = npt.NDArray[np.float64]
_Plane = npt.NDArray[np.float32]

#: Scales of `looks` that have a place in the part for words; the colours of `pixels` follow them.
SCALES: Final = ("sharpness", "light", "colour", "contrast", "size", "blackness", "detail", "quality")
#: Length of the part for words.
WORDS: Final = len(SCALES) + len(pixels.COLOURS)
#: Most dimensions of a vector.
MOST_DIMENSIONS: Final = 3072

#: How much each part of the description counts. Set with the sample pictures: recall of the photograph.
_WEIGHTS: Final = {
    "tones": 1.0,
    "edges": 2.7,
    "texture": 1.7,
    "gradients": 1.2,
    "hues": 0.7,
    "chroma": 1.0,
    "plan": 1.0,
}
_WORDS_WEIGHT: Final = 0.3
_TONES: Final = 12
_DIRECTIONS: Final = 8
_HUES: Final = 12
_GRADIENTS: Final = 8
_NEIGHBOURS: Final = 8
_PLAN: Final = (4, 4)


def describe(data: bytes) -> Vector:
    """Return the description of an image, about 10 ms of work.

    Its last `WORDS` numbers are the part for words: a place on each of `SCALES` (-1 to 1) and the share of
    each colour, times a weight.

    Args:
        data: The bytes of a file that Pillow can decode.

    Raises:
        pixels.NotAnImage: They are none.
    """
    image, _ = pixels.decode(data)
    half = image.resize((max(8, image.width // 2), max(8, image.height // 2)), Image.Resampling.BOX)
    rgb: _Plane = np.asarray(half, dtype=np.float32)
    luma: _Plane = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    low, high = np.percentile(luma, [1, 99])
    tones: _Plane = np.clip((luma - low) / max(high - low, 4.0), 0, 1).astype(np.float32)  # exposure is gone
    parts = [_WEIGHTS["tones"] * _spread(_histogram(tones, _TONES))]
    for scale in (1, 2, 4):
        smaller = _shrunk(tones, scale)
        parts.append(_WEIGHTS["edges"] * _spread(_directions(smaller)))
        if scale > 1:
            parts.append(_WEIGHTS["texture"] * _spread(_texture(smaller)))
            rough = np.hypot(*np.gradient(_shrunk(tones, 2 * scale))) / (tones.std() + 0.02)
            parts.append(_WEIGHTS["gradients"] * _spread(_histogram(np.sqrt(np.clip(rough / 1.5, 0, 1)), _GRADIENTS)))
    hues, chroma = _colours(rgb, luma, tones)
    parts += [_WEIGHTS["hues"] * hues, _WEIGHTS["chroma"] * chroma]
    plan = np.asarray(Image.fromarray(tones).resize(_PLAN, Image.Resampling.BOX), dtype=np.float64).ravel()
    plan -= plan.mean()
    parts += [_WEIGHTS["plan"] * plan / (np.linalg.norm(plan) + 1e-3), _WORDS_WEIGHT * _words(data, image)]
    return np.concatenate(parts)


#: Length of a description.
LENGTH: Final = 106 + WORDS


def project(description: Vector, dimension: int, space: str) -> list[float]:
    """Return a description as a vector of length 1.

    From `LENGTH` dimensions on nothing is lost: angles between vectors are those between descriptions.

    Args:
        description: From `describe`, or a sum of such.
        dimension: 1 to `MOST_DIMENSIONS`.
        space: Name of the model: vectors of two models have nothing to do with each other.
    """
    if not 1 <= dimension <= MOST_DIMENSIONS:
        raise ValueError(f"a vector has 1 to {MOST_DIMENSIONS} dimensions, not {dimension}")
    turned = _rotation(dimension, space) @ description
    length = float(np.linalg.norm(turned))
    if length < 1e-9:
        turned, length = np.eye(1, dimension)[0], 1.0
    values: list[float] = (turned / length).tolist()
    return values


def embed(data: bytes, dimension: int, space: str = "") -> list[float]:
    """Return the vector of one image, of length 1; see `describe` and `project`."""
    return project(describe(data), dimension, space)


@functools.lru_cache(maxsize=16)
def _rotation(dimension: int, space: str) -> Vector:
    """A fixed random matrix, with orthonormal columns as soon as there is room for them."""
    seed = int.from_bytes(hashlib.blake2b(f"{space} {dimension}".encode(), digest_size=8).digest(), "big")
    matrix: Vector = np.random.default_rng(seed).standard_normal((dimension, LENGTH))
    if dimension < LENGTH:
        return matrix
    orthonormal: Vector = np.linalg.qr(matrix)[0]
    return orthonormal


def _histogram(values: npt.NDArray[np.floating], bins: int, weights: npt.NDArray[np.floating] | None = None) -> Vector:
    """Return a histogram of values from 0 to 1; each counts in the two bins that it is between."""
    place = np.clip(values.ravel() * bins - 0.5, 0, bins - 1)
    lower = place.astype(np.int64)
    share = place - lower
    amount = np.ones_like(share) if weights is None else weights.ravel()
    return _both(lower, np.minimum(lower + 1, bins - 1), share, amount, bins)


def _circular(turns: npt.NDArray[np.floating], bins: int, weights: npt.NDArray[np.floating]) -> Vector:
    """Return the same of angles, in turns from 0 to 1, where the last bin is the first one's neighbour."""
    place = turns.ravel() % 1.0 * bins
    lower = place.astype(np.int64)
    return _both(lower % bins, (lower + 1) % bins, place - lower, weights.ravel(), bins)


def _both(
    lower: npt.NDArray[np.int64],
    upper: npt.NDArray[np.int64],
    share: npt.NDArray[np.floating],
    amount: npt.NDArray[np.floating],
    bins: int,
) -> Vector:
    counted = np.bincount(lower, (1 - share) * amount, bins) + np.bincount(upper, share * amount, bins)
    return counted.astype(np.float64)


def _spread(counts: Vector) -> Vector:
    """Return a histogram as its square roots without their mean: Euclid's distance is then Hellinger's."""
    roots = np.sqrt(counts / max(float(counts.sum()), 1e-9))
    spread: Vector = roots - roots.mean()
    return spread


def _shrunk(plane: _Plane, scale: int) -> _Plane:
    if scale == 1:
        return plane
    size = (max(4, plane.shape[1] // scale), max(4, plane.shape[0] // scale))
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX), dtype=np.float32)


def _directions(plane: _Plane) -> Vector:
    """Return how strong the edges of each direction are."""
    down, across = np.gradient(plane)
    return _circular(np.arctan2(down, across) / np.pi, _DIRECTIONS, np.hypot(across, down))


def _texture(plane: _Plane) -> Vector:
    """Return the uniform local binary patterns (Ojala 2002): what each pixel's neighbours are, brighter or not."""
    centre = plane[1:-1, 1:-1]
    around = (
        plane[:-2, :-2], plane[:-2, 1:-1], plane[:-2, 2:], plane[1:-1, 2:],
        plane[2:, 2:], plane[2:, 1:-1], plane[2:, :-2], plane[1:-1, :-2],
    )  # fmt: skip
    brighter = np.stack([one >= centre for one in around]).astype(np.int8)
    changes = (brighter != np.roll(brighter, 1, axis=0)).sum(axis=0)
    code = np.where(changes <= 2, brighter.sum(axis=0), _NEIGHBOURS + 1)
    return np.bincount(code.ravel(), minlength=_NEIGHBOURS + 2).astype(np.float64)


def _colours(rgb: _Plane, luma: _Plane, tones: _Plane) -> tuple[Vector, Vector]:
    """Return the hues, and the mean chroma of shadows, middle tones and lights; grey pictures have none."""
    total = rgb.sum(axis=2) + 3
    red = (rgb[..., 0] - rgb[..., 1]) / total
    blue = (rgb[..., 2] - (rgb[..., 0] + rgb[..., 1]) / 2) / total
    strength = np.hypot(red, blue) * np.minimum(total / (3 * max(float(luma.mean()), 1.0)), 2)
    hues = _circular(np.arctan2(blue, red) / (2 * np.pi), _HUES, strength) / luma.size
    zones = [(tones >= step / 3) & (tones <= (step + 1) / 3) for step in range(3)]
    means = [float(plane[zone].mean()) if zone.any() else 0.0 for zone in zones for plane in (red, blue)]
    chroma = np.array(means)
    return hues / (np.linalg.norm(hues) + 0.03), chroma / (np.linalg.norm(chroma) + 0.05)


def _words(data: bytes, image: Image.Image) -> Vector:
    look = look_at([pixels.measure(data)])
    assert look is not None  # noqa: S101  (there is one image)
    return np.array([*(2 * look.scales[scale] - 1 for scale in SCALES), *pixels.colour_shares(image)])

"""The local image embeddings: vectors in which pictures of the same object are neighbors.

Without a trained model, an image is described by features that change little with crop, scale and exposure: the
distribution of tones, edge directions, fine texture at several scales, and hues. A smaller part of the descriptor
represents words (dark, blurry, green, ...), which texts share (`text_vectors`). A fixed random rotation maps the
descriptor to the requested number of dimensions.
"""

import functools
import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagebeam.emulators.fake_model import image_stats
from imagebeam.emulators.fake_model.image_words import summarize

Vector = npt.NDArray[np.float64]
_Plane = npt.NDArray[np.float32]

#: Scales of `image_words` in the word part, followed by the colors of `image_stats`.
SCALES: Final = ("sharpness", "light", "color", "contrast", "size", "blackness", "detail", "quality")
#: Length of the word part.
WORD_LENGTH: Final = len(SCALES) + len(image_stats.COLORS)
#: Maximum number of dimensions of a vector.
MAX_DIMENSIONS: Final = 3072

#: Weights of the parts of the descriptor, calibrated for recall of the photograph with the sample images.
_WEIGHTS: Final = {
    "tones": 1.0,
    "edges": 2.7,
    "texture": 1.7,
    "gradients": 1.2,
    "hues": 0.7,
    "chroma": 1.0,
    "plan": 1.0,
}
_WORD_WEIGHT: Final = 0.3
_TONES: Final = 12
_DIRECTIONS: Final = 8
_HUES: Final = 12
_GRADIENTS: Final = 8
_NEIGHBORS: Final = 8
_PLAN: Final = (4, 4)


def describe(data: bytes) -> Vector:
    """Return the descriptor of an image. Takes about 10 ms.

    The last `WORD_LENGTH` numbers are the word part: the position on each of `SCALES` (-1 to 1) and the share of each
    color, times a weight.

    Args:
        data: Content of an image file in a format that Pillow supports.

    Raises:
        image_stats.NotAnImageError: The data is not an image.
    """
    image, _ = image_stats.decode(data)
    half = image.resize((max(8, image.width // 2), max(8, image.height // 2)), Image.Resampling.BOX)
    rgb: _Plane = np.asarray(half, dtype=np.float32)
    luma: _Plane = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    low, high = np.percentile(luma, [1, 99])
    tones: _Plane = np.clip((luma - low) / max(high - low, 4.0), 0, 1).astype(np.float32)  # independent of exposure
    parts = [_WEIGHTS["tones"] * _spread(_histogram(tones, _TONES))]
    for scale in (1, 2, 4):
        smaller = _shrunk(tones, scale)
        parts.append(_WEIGHTS["edges"] * _spread(_directions(smaller)))
        if scale > 1:
            parts.append(_WEIGHTS["texture"] * _spread(_texture(smaller)))
            rough = np.hypot(*np.gradient(_shrunk(tones, 2 * scale))) / (tones.std() + 0.02)
            parts.append(_WEIGHTS["gradients"] * _spread(_histogram(np.sqrt(np.clip(rough / 1.5, 0, 1)), _GRADIENTS)))
    hues, chroma = _colors(rgb, luma, tones)
    parts += [_WEIGHTS["hues"] * hues, _WEIGHTS["chroma"] * chroma]
    plan = np.asarray(Image.fromarray(tones).resize(_PLAN, Image.Resampling.BOX), dtype=np.float64).ravel()
    plan -= plan.mean()
    parts += [_WEIGHTS["plan"] * plan / (np.linalg.norm(plan) + 1e-3), _WORD_WEIGHT * _words(data, image)]
    return np.concatenate(parts)


#: Length of a descriptor.
DESCRIPTION_LENGTH: Final = 106 + WORD_LENGTH


def project(description: Vector, dimension: int, space: str) -> list[float]:
    """Map a descriptor to a vector of norm 1.

    With `DESCRIPTION_LENGTH` or more dimensions, angles between descriptors are preserved.

    Args:
        description: Result of `describe`, or a sum of such results.
        dimension: Number of dimensions, 1 to `MAX_DIMENSIONS`.
        space: Name of the model. Vectors of different models are unrelated.
    """
    if not 1 <= dimension <= MAX_DIMENSIONS:
        raise ValueError(f"a vector has 1 to {MAX_DIMENSIONS} dimensions, not {dimension}")
    turned = _rotation(dimension, space) @ description
    length = float(np.linalg.norm(turned))
    if length < 1e-9:
        turned, length = np.eye(1, dimension)[0], 1.0
    values: list[float] = (turned / length).tolist()
    return values


def embed(data: bytes, dimension: int, space: str = "") -> list[float]:
    """Return the vector of an image, of norm 1; see `describe` and `project`."""
    return project(describe(data), dimension, space)


@functools.lru_cache(maxsize=16)
def _rotation(dimension: int, space: str) -> Vector:
    """Return a fixed random matrix, with orthonormal columns if it has enough rows."""
    seed = int.from_bytes(hashlib.blake2b(f"{space} {dimension}".encode(), digest_size=8).digest(), "big")
    matrix: Vector = np.random.default_rng(seed).standard_normal((dimension, DESCRIPTION_LENGTH))
    if dimension < DESCRIPTION_LENGTH:
        return matrix
    orthonormal: Vector = np.linalg.qr(matrix)[0]
    return orthonormal


def _histogram(values: npt.NDArray[np.floating], bins: int, weights: npt.NDArray[np.floating] | None = None) -> Vector:
    """Return a histogram of values from 0 to 1. Each value is split between the two nearest bins."""
    place = np.clip(values.ravel() * bins - 0.5, 0, bins - 1)
    lower = place.astype(np.int64)
    share = place - lower
    amount = np.ones_like(share) if weights is None else weights.ravel()
    return _both(lower, np.minimum(lower + 1, bins - 1), share, amount, bins)


def _circular(turns: npt.NDArray[np.floating], bins: int, weights: npt.NDArray[np.floating]) -> Vector:
    """Return a histogram of angles in turns from 0 to 1, in which the last and the first bin are neighbors."""
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
    """Return the centered square roots of a histogram, whose Euclidean distance is the Hellinger distance."""
    roots = np.sqrt(counts / max(float(counts.sum()), 1e-9))
    spread: Vector = roots - roots.mean()
    return spread


def _shrunk(plane: _Plane, scale: int) -> _Plane:
    if scale == 1:
        return plane
    size = (max(4, plane.shape[1] // scale), max(4, plane.shape[0] // scale))
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX), dtype=np.float32)


def _directions(plane: _Plane) -> Vector:
    """Return the strength of the edges in each direction."""
    down, across = np.gradient(plane)
    return _circular(np.arctan2(down, across) / np.pi, _DIRECTIONS, np.hypot(across, down))


def _texture(plane: _Plane) -> Vector:
    """Return the counts of uniform local binary patterns (Ojala 2002): which neighbors of a pixel are brighter."""
    center = plane[1:-1, 1:-1]
    around = (
        plane[:-2, :-2], plane[:-2, 1:-1], plane[:-2, 2:], plane[1:-1, 2:],
        plane[2:, 2:], plane[2:, 1:-1], plane[2:, :-2], plane[1:-1, :-2],
    )  # fmt: skip
    brighter = np.stack([one >= center for one in around]).astype(np.int8)
    changes = (brighter != np.roll(brighter, 1, axis=0)).sum(axis=0)
    code = np.where(changes <= 2, brighter.sum(axis=0), _NEIGHBORS + 1)
    return np.bincount(code.ravel(), minlength=_NEIGHBORS + 2).astype(np.float64)


def _colors(rgb: _Plane, luma: _Plane, tones: _Plane) -> tuple[Vector, Vector]:
    """Return the hues and the mean chroma of shadows, midtones and highlights; about 0 for gray images."""
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
    appearance = summarize([image_stats.measure(data)])
    assert appearance is not None  # noqa: S101  (there is one image)
    return np.array([*(2 * appearance.scales[scale] - 1 for scale in SCALES), *image_stats.color_shares(image)])

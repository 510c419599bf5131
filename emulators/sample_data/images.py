"""The images of the sample dataset: crops of twelve photographs, some with typical defects."""

import functools
import io
import random
from dataclasses import dataclass, replace
from importlib import resources
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

#: Maximum side of an image in pixels.
MAX_SIDE: Final = 320
#: Quality of the JPEGs.
QUALITY: Final = 85

#: Variants of a photograph, with their percentage.
VARIANTS: Final = {
    "plain": 60,
    "blurred": 12,
    "dark": 8,
    "overexposed": 6,
    "grey": 6,
    "low_resolution": 5,
    "redacted": 3,
}

_SHAPES: Final = ((4, 3), (3, 4), (1, 1), (3, 2))
_BLUR: Final = 4  # px
_SHRINK: Final = 7


@dataclass(frozen=True, slots=True)
class Picture:
    """The recipe for an image.

    Attributes:
        photo: Name of the photograph without extension.
        box: Crop: left, top, right, bottom in pixels.
        size: Width and height of the image in pixels.
        variant: One of `VARIANTS`.
        kind: ``JPEG`` or ``PNG``.
    """

    photo: str
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    variant: str
    kind: str = "JPEG"


@functools.cache
def photos() -> tuple[str, ...]:
    """Return the names of the photographs."""
    found = (item.name for item in resources.files("imagebeam.emulators.sample_data").joinpath("photos").iterdir())
    return tuple(sorted(name.removesuffix(".jpg") for name in found if name.endswith(".jpg")))


def views(photo: str, count: int, rng: random.Random) -> list[Picture]:
    """Return several views of one object: different crops of a photograph.

    Args:
        photo: Name of the photograph.
        count: Number of views.
        rng: Random generator for crops and variants.
    """
    return [_view(photo, rng) for _ in range(count)]


def render(picture: Picture) -> bytes:
    """Return the file content of an image."""
    image = _photo(picture.photo).crop(picture.box)
    if picture.variant == "blurred":
        image = image.filter(ImageFilter.GaussianBlur(_BLUR))
    image = image.resize(picture.size, Image.Resampling.BILINEAR)
    if picture.variant == "dark":
        image = image.point(lambda value: value * 0.16)
    elif picture.variant == "overexposed":
        image = image.point(lambda value: min(255.0, value * 1.7 + 110))
    elif picture.variant == "grey":
        image = image.convert("L")
    elif picture.variant == "redacted":  # black out nearly everything
        width, height = image.size
        ImageDraw.Draw(image).rectangle((width * 0.04, height * 0.04, width * 0.96, height * 0.94), fill=(0, 0, 0))
    out = io.BytesIO()
    if picture.kind == "PNG":
        image.save(out, "PNG", compress_level=1)
    else:
        image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def as_png(picture: Picture) -> Picture:
    """Return the recipe for the same image as a PNG."""
    return replace(picture, kind="PNG")


def _view(photo: str, rng: random.Random) -> Picture:
    across, down = rng.choice(_SHAPES)
    width, height = _photo(photo).size
    scale = min(width / across, height / down) * rng.uniform(0.55, 0.95)
    wide, high = round(across * scale), round(down * scale)
    left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
    variant = rng.choices(list(VARIANTS), list(VARIANTS.values()))[0]
    shrink = min(1.0, MAX_SIDE / max(wide, high))
    if variant == "low_resolution":
        shrink /= _SHRINK
    size = (max(1, round(wide * shrink)), max(1, round(high * shrink)))
    return Picture(photo, (left, top, left + wide, top + high), size, variant)


@functools.cache
def _photo(name: str) -> Image.Image:
    file = resources.files("imagebeam.emulators.sample_data").joinpath("photos", f"{name}.jpg")
    with Image.open(io.BytesIO(file.read_bytes())) as opened:
        return opened.convert("RGB")

"""What can be measured on an image without understanding it: the eyes of the local model.

The picture is looked at with at most 256 pixels per side, as a person looks at a thumbnail: a blur that
is lost at that size does not count. The thresholds below were set with the photographs beside this
module, each sharp, blurred, darkened and overexposed.
"""

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

#: Longest side, in pixels, at which is measured.
LONGEST_SIDE: Final = 256

#: Sharpness of a sharp photograph: from here on. Between the two it is soft, below blurry.
SHARP: Final = 1.1
SOFT: Final = 0.5
#: Mean brightness below which a photograph is dark, and from which on it is bright.
DARK: Final = 0.2
BRIGHT: Final = 0.6
#: Mean brightness, or share of blown-out pixels, from which on it is overexposed.
OVEREXPOSED: Final = 0.74
BLOWN_OUT: Final = 0.25
#: Colourfulness below which it is grey, and from which on it is vivid ("averagely colourful", ibid.).
GREY: Final = 8.0
VIVID: Final = 45.0
#: Contrast below which it is flat.
FLAT: Final = 0.06
#: Shorter side, in pixels, below which it has little to show.
TINY: Final = 80

#: More is a decompression bomb: 89 megapixels, where Pillow begins to warn.
_MOST_PIXELS: Final = 89_000_000
#: The names of colours.
COLOURS: Final = ("black", "white", "grey", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
#: A dominant colour is a hue as soon as it covers this share, however much grey there is.
_HUE_SHARE: Final = 0.3

_Plane = npt.NDArray[np.float32]


class NotAnImage(ValueError):  # noqa: N818  (it says what the bytes are)
    """The bytes are no image that Pillow can decode."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured on one image.

    Attributes:
        width: Pixels, of the image itself.
        height: Pixels, of the image itself.
        brightness: Mean luma, 0 (black) to 1 (white).
        contrast: Standard deviation of luma, 0 to 0.5.
        colourfulness: Hasler and Süsstrunk 2003: 0 grey, 15 slightly, 45 averagely, 82 highly colourful.
        sharpness: Variance of the Laplacian over the mean squared gradient, 0 to about 5: how fine the
            structure is, whatever exposure and contrast are. Blurry below `SOFT`, sharp from `SHARP` on.
        edge_density: Share of pixels on an edge, 0 to 1.
        dominant_colour: One of black, white, grey, red, orange, brown, yellow, green, blue, purple, pink.
        entropy: Of the luma histogram, 0 to 8 bits.
        black_share: Share of pixels that are all but black (redaction, night), 0 to 1.
        white_share: Share of pixels that are blown out, 0 to 1.
        grey: Whether it has no colour to speak of.
    """

    width: int
    height: int
    brightness: float
    contrast: float
    colourfulness: float
    sharpness: float
    edge_density: float
    dominant_colour: str
    entropy: float
    black_share: float
    white_share: float
    grey: bool


def measure(data: bytes) -> Measurements:
    """Measure an image; takes about 5 ms.

    Args:
        data: The bytes of a file that Pillow can decode, whatever its name says.

    Raises:
        NotAnImage: They are none, or the file is cut off.
    """
    image, (width, height) = decode(data)
    rgb = np.asarray(image, dtype=np.float32)
    luma: _Plane = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    across, down = np.diff(luma, axis=1)[:-1], np.diff(luma, axis=0)[:, :-1]
    squares = across**2 + down**2
    shades = np.bincount(luma.astype(np.uint8).ravel(), minlength=256) / luma.size
    colourfulness = _colourfulness(rgb)
    return Measurements(
        width=width,
        height=height,
        brightness=float(luma.mean()) / 255,
        contrast=float(luma.std()) / 255,
        colourfulness=colourfulness,
        sharpness=_sharpness(luma, squares),
        edge_density=float((squares > 32**2).mean()) if squares.size else 0.0,
        dominant_colour=_dominant_colour(image),
        entropy=float(-(shades[shades > 0] * np.log2(shades[shades > 0])).sum()) + 0.0,
        black_share=float(shades[:12].sum()),
        white_share=float(shades[250:].sum()),
        grey=colourfulness < GREY,
    )


def decode(data: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """Return an image as it is looked at (RGB, no side longer than `LONGEST_SIDE`), and its own size in pixels.

    Raises:
        NotAnImage: The bytes are none, or the file is cut off.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            size = opened.size
            if size[0] * size[1] > _MOST_PIXELS:
                raise NotAnImage(f"{size[0]} × {size[1]} pixels are too many")
            opened.draft("RGB", (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))  # a big JPEG is decoded small
            image = opened.convert("RGB")
    except NotAnImage:
        raise
    except UnidentifiedImageError as problem:
        raise NotAnImage(f"these {len(data)} bytes are no image") from problem
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as problem:
        raise NotAnImage(f"these {len(data)} bytes cannot be decoded: {problem}") from problem
    scale = LONGEST_SIDE / max(image.size)
    if scale < 1:
        small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(small, Image.Resampling.BILINEAR)
    return image, size


def _sharpness(luma: _Plane, squares: _Plane) -> float:
    """Return the variance of the Laplacian relative to the mean squared gradient.

    The variance alone (Pech-Pacheco 2000) falls with exposure and contrast: a dark photograph would be
    called blurry. What rounding to whole numbers adds to both is taken off, or a dark blurry photograph
    would be called sharp.
    """
    if min(luma.shape) < 3:
        return 0.0
    inner = luma[1:-1, 1:-1]
    laplacian = luma[1:-1, :-2] + luma[1:-1, 2:] + luma[:-2, 1:-1] + luma[2:, 1:-1] - 4 * inner
    fine = max(float(laplacian.var()) - 20 / 12, 0.0)
    return fine / (max(float(squares.mean()) - 4 / 12, 0.0) + 1.0)


def _colourfulness(rgb: _Plane) -> float:
    """Return M of Hasler and Süsstrunk, "Measuring colourfulness in natural images" (2003)."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def colour_shares(image: Image.Image) -> npt.NDArray[np.float64]:
    """Return which share of an image has each of `COLOURS`; they add up to 1."""
    small = image.resize((min(image.width, 64), min(image.height, 64)), Image.Resampling.BOX)
    hsv: npt.NDArray[Any] = np.asarray(small.convert("HSV"), dtype=np.int32)
    hue, saturation, value = hsv[..., 0] * 360 // 256, hsv[..., 1], hsv[..., 2]
    hued = (saturation >= 50) & (value >= 45)
    found = np.select(
        [
            value < 45,
            ~hued & (value >= 215),
            ~hued,
            ((hue < 15) | (hue >= 345)) & (value >= 90),
            ((hue < 45) | (hue >= 345)) & ((value < 150) | (saturation < 115)),
            hue < 45,
            hue < 68,
            hue < 165,
            hue < 260,
            hue < 300,
        ],
        [COLOURS.index(name) for name in _CASES],
        COLOURS.index("pink"),
    )
    return np.bincount(found.ravel(), minlength=len(COLOURS)) / found.size


def _dominant_colour(image: Image.Image) -> str:
    shares = colour_shares(image)
    hues = shares.copy()
    hues[:3] = 0
    return COLOURS[int((hues if hues.max() >= _HUE_SHARE else shares).argmax())]


#: The colours of the cases above, in their order.
_CASES: Final = ("black", "white", "grey", "red", "brown", "orange", "yellow", "green", "blue", "purple")

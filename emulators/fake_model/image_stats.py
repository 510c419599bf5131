"""Statistics of an image: the input of the local model.

Images are reduced to at most 256 pixels per side, so that blur that is invisible in a thumbnail is ignored. The
thresholds were calibrated with the sample photographs, each sharp, blurred, darkened and overexposed.
"""

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

#: Maximum side in pixels of the image that is measured.
MAX_SIDE: Final = 256

#: Minimum sharpness of a sharp and of a soft photograph. Below `SOFT` it is blurry.
SHARP: Final = 1.1
SOFT: Final = 0.5
#: Mean brightness below which a photograph is dark, and from which it is bright.
DARK: Final = 0.2
BRIGHT: Final = 0.6
#: Mean brightness, and share of blown-out pixels, from which a photograph is overexposed.
OVEREXPOSED: Final = 0.74
BLOWN_OUT: Final = 0.25
#: Colorfulness below which a photograph is gray, and from which it is vivid ("averagely colourful").
GREY: Final = 8.0
VIVID: Final = 45.0
#: Contrast below which a photograph is flat.
FLAT: Final = 0.06
#: Shorter side in pixels below which a photograph has a low resolution.
MIN_SIDE: Final = 80

#: Maximum number of pixels, as protection from decompression bombs: the threshold of Pillow's warning.
_MAX_PIXELS: Final = 89_000_000
#: Names of colors. They are values of answers, hence the spelling.
COLORS: Final = ("black", "white", "grey", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
#: Minimum share of a hue to be the dominant color, regardless of the share of gray.
_HUE_SHARE: Final = 0.3

_Plane = npt.NDArray[np.float32]


class NotAnImageError(ValueError):
    """The data is not an image that Pillow can decode."""


@dataclass(frozen=True, slots=True)
class ImageStats:
    """Statistics of one image.

    Attributes:
        width: Width in pixels of the original image.
        height: Height in pixels of the original image.
        brightness: Mean luma, 0 (black) to 1 (white).
        contrast: Standard deviation of luma, 0 to 0.5.
        colorfulness: Hasler and Süsstrunk 2003: 0 gray, 15 slightly, 45 averagely, 82 highly colorful.
        sharpness: Variance of the Laplacian divided by the mean squared gradient, 0 to about 5, independent of
            exposure and contrast. Blurry below `SOFT`, sharp from `SHARP`.
        edge_density: Share of pixels on an edge, 0 to 1.
        dominant_color: One of `COLORS`.
        entropy: Entropy of the luma histogram, 0 to 8 bits.
        black_share: Share of nearly black pixels (redaction, night), 0 to 1.
        white_share: Share of blown-out pixels, 0 to 1.
        grey: Whether the image has almost no color.
    """

    width: int
    height: int
    brightness: float
    contrast: float
    colorfulness: float
    sharpness: float
    edge_density: float
    dominant_color: str
    entropy: float
    black_share: float
    white_share: float
    grey: bool


def measure(data: bytes) -> ImageStats:
    """Measure an image. Takes about 5 ms.

    Args:
        data: Content of an image file in a format that Pillow supports.

    Raises:
        NotAnImageError: The data is not an image, or truncated.
    """
    image, (width, height) = decode(data)
    rgb = np.asarray(image, dtype=np.float32)
    luma: _Plane = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    across, down = np.diff(luma, axis=1)[:-1], np.diff(luma, axis=0)[:, :-1]
    squares = across**2 + down**2
    shades = np.bincount(luma.astype(np.uint8).ravel(), minlength=256) / luma.size
    colorfulness = _colorfulness(rgb)
    return ImageStats(
        width=width,
        height=height,
        brightness=float(luma.mean()) / 255,
        contrast=float(luma.std()) / 255,
        colorfulness=colorfulness,
        sharpness=_sharpness(luma, squares),
        edge_density=float((squares > 32**2).mean()) if squares.size else 0.0,
        dominant_color=_dominant_color(image),
        entropy=float(-(shades[shades > 0] * np.log2(shades[shades > 0])).sum()) + 0.0,
        black_share=float(shades[:12].sum()),
        white_share=float(shades[250:].sum()),
        grey=colorfulness < GREY,
    )


def decode(data: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """Return an image reduced to RGB and at most `MAX_SIDE` pixels per side, and its original size in pixels.

    Raises:
        NotAnImageError: The data is not an image, or truncated.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            size = opened.size
            if size[0] * size[1] > _MAX_PIXELS:
                raise NotAnImageError(f"{size[0]} × {size[1]} pixels are too many")
            opened.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))  # decode a large JPEG at a reduced size
            image = opened.convert("RGB")
    except NotAnImageError:
        raise
    except UnidentifiedImageError as problem:
        raise NotAnImageError(f"these {len(data)} bytes are not an image") from problem
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as problem:
        raise NotAnImageError(f"these {len(data)} bytes cannot be decoded: {problem}") from problem
    scale = MAX_SIDE / max(image.size)
    if scale < 1:
        small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(small, Image.Resampling.BILINEAR)
    return image, size


def _sharpness(luma: _Plane, squares: _Plane) -> float:
    """Return the variance of the Laplacian relative to the mean squared gradient.

    The variance alone (Pech-Pacheco 2000) decreases with exposure and contrast, so that a dark photograph would seem
    blurry. The contribution of rounding to integers is subtracted from both terms; otherwise a dark blurry
    photograph would seem sharp.
    """
    if min(luma.shape) < 3:
        return 0.0
    inner = luma[1:-1, 1:-1]
    laplacian = luma[1:-1, :-2] + luma[1:-1, 2:] + luma[:-2, 1:-1] + luma[2:, 1:-1] - 4 * inner
    fine = max(float(laplacian.var()) - 20 / 12, 0.0)
    return fine / (max(float(squares.mean()) - 4 / 12, 0.0) + 1.0)


def _colorfulness(rgb: _Plane) -> float:
    """Return M of Hasler and Süsstrunk, "Measuring colourfulness in natural images" (2003)."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def color_shares(image: Image.Image) -> npt.NDArray[np.float64]:
    """Return the share of each of `COLORS` in an image. The sum is 1."""
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
        [COLORS.index(name) for name in _CASES],
        COLORS.index("pink"),
    )
    return np.bincount(found.ravel(), minlength=len(COLORS)) / found.size


def _dominant_color(image: Image.Image) -> str:
    shares = color_shares(image)
    hues = shares.copy()
    hues[:3] = 0
    return COLORS[int((hues if hues.max() >= _HUE_SHARE else shares).argmax())]


#: Colors of the cases above, in order.
_CASES: Final = ("black", "white", "grey", "red", "brown", "orange", "yellow", "green", "blue", "purple")

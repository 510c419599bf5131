"""Pictures for the local dataset: views cut out of the sample photographs, some of them spoilt on purpose."""

import io
import random
from importlib import resources
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

#: Longest side of a picture, in pixels.
LONGEST_SIDE: Final = 320
#: JPEG quality of a picture.
QUALITY: Final = 85
#: Width and height of a panorama's frame; Google's are 3648 x 5472.
PANORAMA_SIZE: Final = (160, 240)

#: How often each way of taking a picture occurs among twenty.
SHARES: Final = {"plain": 13, "blurred": 2, "dark": 2, "overexposed": 1, "tiny": 1, "redacted": 1}

Point = tuple[float, float]


class Photos:
    """The sample photographs, decoded once."""

    def __init__(self) -> None:
        folder = resources.files("imagebeam.emulators") / "photos"
        files = sorted((file for file in folder.iterdir() if file.name.endswith(".jpg")), key=lambda file: file.name)
        self._photos = [Image.open(io.BytesIO(file.read_bytes())).convert("RGB") for file in files]

    def __len__(self) -> int:
        return len(self._photos)

    def view(self, photo: int, centre: Point, rng: random.Random) -> Image.Image:
        """Return one view of a thing: the same spot of the same photograph, from a little elsewhere.

        Args:
            photo: Number of the photograph; any number, it wraps around.
            centre: Where the thing is, as fractions of width and height.
            rng: Source of what differs between two views.
        """
        whole = self._photos[photo % len(self._photos)]
        width = whole.width * rng.uniform(0.42, 0.6)
        height = min(width * rng.uniform(0.75, 1.3), whole.height * 0.8)
        left = min(max(whole.width * (centre[0] + rng.uniform(-0.05, 0.05)) - width / 2, 0), whole.width - width)
        top = min(max(whole.height * (centre[1] + rng.uniform(-0.05, 0.05)) - height / 2, 0), whole.height - height)
        return _fitted(whole.crop((round(left), round(top), round(left + width), round(top + height))))

    def frame(self, photo: int) -> Image.Image:
        """Return a whole photograph."""
        return _fitted(self._photos[photo % len(self._photos)])

    def panorama(self, photo: int, camera: int) -> Image.Image:
        """Return one upright frame of a 360° capture; camera 6 looks at the sky."""
        if camera == 6:
            light = Image.linear_gradient("L").point(lambda value: 165 + value // 4)
            blue = Image.new("L", light.size, 255)
            return Image.merge("RGB", (light.point(lambda value: value - 50), light, blue)).resize(PANORAMA_SIZE)
        whole = self._photos[photo % len(self._photos)]
        width = min(round(whole.height / 1.5), whole.width)
        left = (whole.width - width) * camera // 5
        return whole.crop((left, 0, left + width, whole.height)).resize(PANORAMA_SIZE, Image.Resampling.BILINEAR)


def taken(image: Image.Image, how: str) -> Image.Image:
    """Return the picture as a bad camera would have taken it.

    Args:
        image: The good one.
        how: One of `SHARES`; ``plain`` changes nothing.
    """
    if how == "blurred":
        return image.filter(ImageFilter.GaussianBlur(max(image.size) / 45))
    if how == "dark":
        return image.point(lambda value: value * 0.2)
    if how == "overexposed":
        return image.point(lambda value: min(255, value * 1.5 + 110))
    if how == "tiny":
        scale = 56 / min(image.size)
        return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    if how == "redacted":
        width, height = image.size
        image = image.copy()
        ImageDraw.Draw(image).rectangle((width * 0.08, height * 0.08, width * 0.95, height * 0.9), fill=(0, 0, 0))
    return image


def encoded(image: Image.Image, suffix: str) -> bytes:
    """Return a picture as a file: PNG for ``png``, else JPEG."""
    buffer = io.BytesIO()
    if suffix == "png":
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _fitted(image: Image.Image) -> Image.Image:
    scale = LONGEST_SIDE / max(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)

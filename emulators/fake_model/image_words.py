"""Words for image statistics: sharp, dark, muted, good, mostly blue.

Each word is a range on a scale from 0 to 1. With them the local model chooses among the values of any enum and
evaluates statements, without knowledge of the task.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from imagebeam.emulators.fake_model import image_stats
from imagebeam.emulators.fake_model.image_stats import ImageStats


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a word: a range on a scale.

    Attributes:
        scale: A key of `Appearance.scales`.
        low: Lower limit of the range, 0 to 1.
        high: Upper limit of the range, 0 to 1.
    """

    scale: str
    low: float
    high: float

    def distance(self, value: float) -> float:
        """Return the distance of a value from the range; 0 inside."""
        return max(self.low - value, value - self.high, 0.0)

    def negated(self) -> "Meaning":
        """Return the larger part of the scale outside the range."""
        return (
            replace(self, low=self.high, high=1.0) if self.low < 1 - self.high else replace(self, low=0, high=self.low)
        )


@dataclass(frozen=True, slots=True)
class Appearance:
    """The appearance of one or several images.

    Attributes:
        whole: Mean statistics. Size and sharpness are those of the sharpest image.
        images: Number of images, at least 1.
        scales: Position on each scale, 0 to 1.
    """

    whole: ImageStats
    images: int
    scales: Mapping[str, float]

    def words(self) -> tuple[str, str, str]:
        """Return sharpness, light and color, each as one word."""
        first, second, third = (
            nearest(self, {word.replace("_", " "): _MEANINGS[word] for word in words.split()})
            for words in ("blurry soft sharp", "dark well_exposed bright overexposed", "grey muted colourful")
        )
        return first, second, third

    def assessment(self) -> str:
        """Return the main reason why the image is usable or not, as a short sentence."""
        sharpness, light, _ = self.words()
        if self.scales["usability"] >= USABLE:
            return f"It is {sharpness} and {light}."
        worst = min(("sharpness", "exposure", "size", "cover"), key=lambda scale: self.scales[scale])
        return {
            "sharpness": "It is too blurry.",
            "exposure": "It is too dark." if self.whole.brightness < 0.5 else "It is too bright.",
            "size": "It has too few pixels.",
            "cover": "Most of it is black.",
        }[worst]

    def sentence(self) -> str:
        """Return a sentence that describes the image."""
        sharpness, light, color = self.words()
        size = f"{self.whole.width} × {self.whole.height}"
        if self.images == 1:
            return f"A {sharpness}, {light}, {color} {size} photograph, mostly {self.whole.dominant_color}."
        return (
            f"{self.images} photographs, {light} and {color} on the whole, mostly {self.whole.dominant_color}; "
            f"the best one is {sharpness} and has {size} pixels."
        )


def summarize(measured: Sequence[ImageStats]) -> Appearance | None:
    """Combine the statistics of images; return None if there are none."""
    if not measured:
        return None
    best = max(measured, key=lambda one: one.sharpness)

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in measured]))

    names = ("brightness", "contrast", "colorfulness", "edge_density", "entropy", "black_share", "white_share")
    means: dict[str, Any] = {name: mean(name) for name in names}
    whole = replace(
        best,
        **means,
        dominant_color=Counter(one.dominant_color for one in measured).most_common(1)[0][0],
        grey=all(one.grey for one in measured),
    )
    return Appearance(whole, len(measured), _scales(whole))


def _scales(whole: ImageStats) -> dict[str, float]:
    sharp = _position(whole.sharpness, (0, image_stats.SOFT, image_stats.SHARP, 2.5), (0, 1 / 3, 2 / 3, 1))
    brightness = (0, image_stats.DARK, image_stats.BRIGHT, image_stats.OVEREXPOSED, 1)
    light = _position(whole.brightness, brightness, (0, 0.3, 0.6, 0.8, 1))
    if whole.white_share >= image_stats.BLOWN_OUT:
        light = max(light, 0.85)
    exposure = _position(light, (0, 0.15, 0.3, 0.4, 0.7, 0.8, 0.9, 1), (0, 0.2, 0.67, 1, 1, 0.67, 0.2, 0.05))
    size = _position(min(whole.width, whole.height), (16, image_stats.MIN_SIDE, 200), (0, 1 / 3, 1))
    cover = _position(whole.black_share, (0.4, 0.8), (1, 0.05))
    weakest = min(sharp, exposure, size, cover)
    return {
        "sharpness": sharp,
        "blur": 1 - sharp,
        "light": light,
        "brightness": whole.brightness,
        "darkness": 1 - whole.brightness,
        "exposure": exposure,
        "color": _position(whole.colorfulness, (0, image_stats.GREY, image_stats.VIVID, 90), (0, 0.2, 0.6, 1)),
        "contrast": _position(whole.contrast, (0, image_stats.FLAT, 0.2, 0.35), (0, 0.25, 0.67, 1)),
        "detail": min(1.0, 4 * whole.edge_density),
        "size": size,
        "blackness": whole.black_share,
        "cover": cover,
        "usability": weakest,
        "quality": 0.8 * weakest + 0.2 * (sharp + exposure + size) / 3,
    }


def _position(value: float, given: Sequence[float], wanted: Sequence[float]) -> float:
    return float(np.interp(value, given, wanted))


# Words


#: Minimum of the worst quality of a usable image.
USABLE: Final = 1 / 3


def words_of(text: str) -> frozenset[str]:
    """Split a text into a set of words."""
    return frozenset(text.split())


_THIRDS: Final = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))
_LOW, _MIDDLE, _HIGH = _THIRDS
_TEXT: Final[dict[str, dict[tuple[float, float], str]]] = {
    "sharpness": {
        _LOW: "blurry blurred blur out_of_focus unfocused unsharp too_blurry motion_blur",
        (0, 0.15): "very_blurry extremely_blurry",
        _MIDDLE: "soft slightly_blurry slightly_soft slightly_blurred somewhat_blurry",
        _HIGH: "sharp crisp in_focus focused well_focused",
        (0.85, 1): "very_sharp",
    },
    "light": {
        (0, 0.3): "dark underexposed too_dark under_exposed night under dim",
        (0, 0.1): "very_dark black_image",
        (0.3, 0.8): "well_exposed well_lit correctly_exposed correct balanced properly_exposed",
        (0.6, 1): "bright light daylight day",
        (0.8, 1): "overexposed too_bright over_exposed washed_out blown_out glare over very_bright",
    },
    "color": {
        (0, 0.2): "grey gray greyscale grayscale monochrome black_and_white colourless colorless no_colour no_color bw",
        (0.2, 0.6): "muted dull desaturated",
        (0.6, 1): "vivid colourful colorful saturated vibrant",
    },
    "contrast": {(0, 0.25): "low_contrast flat hazy", (2 / 3, 1): "high_contrast contrasty"},
    "size": {(0, 1 / 3): "low_resolution low_res lowres too_small tiny pixelated small", (0.99, 1): "high_resolution"},
    "blackness": {(0.35, 1): "redacted redaction blacked_out black_blob blob"},
    "quality": {
        _LOW: "illegible unreadable",
        (1 / 3, 1): "legible readable recognisable recognizable clear clearly_visible visible",
    },
    "usability": {(0, 0.3333): "unusable worthless", (1 / 3, 1): "usable useable"},
}
#: Ratings and amounts apply to the scale of the field.
_VERDICTS: Final[dict[tuple[float, float], str]] = {
    (0, 0.12): "unusable very_poor very_bad terrible",
    _LOW: "poor bad unacceptable",
    _MIDDLE: "fair acceptable average mediocre passable so_so",
    _HIGH: "good great well fine",
    (1 / 3, 1): "ok okay sufficient usable",
    (0.9, 1): "excellent perfect very_good",
}
_AMOUNTS: Final[dict[tuple[float, float], str]] = {
    _LOW: "none no low weak little absent minimal few",
    (0, 0.15): "very_low",
    (1 / 3, 0.6): "slight mild minor light_blur some",
    _MIDDLE: "medium moderate normal mid partial",
    _HIGH: "high strong much many severe major heavy",
    (0.85, 1): "very_high extreme",
}
#: On the scale of light, the middle is good.
_OF_LIGHT: Final = dict.fromkeys(
    words_of("good normal ok okay fine well acceptable medium moderate average"), (0.3, 0.8)
)

#: Words that describe the image only if they stand alone: "street light" does not mean bright.
_AMBIGUOUS: Final = words_of(
    "light day daylight night under over flat small tiny clear visible dim soft blob glare hazy pale"
)

_MEANINGS: Final = {
    word: Meaning(scale, *bounds)
    for scale, ranges in _TEXT.items()
    for bounds, text in ranges.items()
    for word in text.split()
}
_VERDICT: Final = {word: bounds for bounds, text in _VERDICTS.items() for word in text.split()}
_AMOUNT: Final = {word: bounds for bounds, text in _AMOUNTS.items() for word in text.split()}

#: Scale of a field, by a word in its name.
_ABOUT: Final = {
    word: scale
    for scale, text in {
        "sharpness": "sharpness sharp focus clarity crispness",
        "blur": "blur blurry blurriness blurred",
        "light": "light lighting exposure illumination luminosity",
        "brightness": "brightness bright luminance",
        "darkness": "darkness dark",
        "color": "colour color colours colors saturation colourfulness colorfulness vividness",
        "contrast": "contrast",
        "detail": "detail details texture edges complexity clutter edge",
        "size": "size resolution",
        "quality": "quality usability score rating overall condition legibility visibility readability usable",
    }.items()
    for word in text.split()
}

#: Scales of words that rate the image as a whole.
_GENERAL: Final = frozenset(("quality", "usability"))
#: Values for "cannot be determined".
UNKNOWN_VALUES: Final = words_of(
    "not_visible unclear unknown cannot_tell can_not_tell undetermined uncertain not_applicable na n_a other "
    "not_sure indeterminate unsure unspecified no_image cannot_say not_clear"
)
_NO_ISSUE_VALUES: Final = words_of("none no_issue no_issues nothing ok good fine no_problem no_problems normal")
_YES: Final = frozenset(("yes", "true", "y"))
_NO: Final = frozenset(("no", "false", "n"))
_FILLERS: Final = words_of("is are has too very not no image photo picture photograph")
NEGATIONS: Final = frozenset(("not", "no", "non", "without", "never"))
COLOR_NAMES: Final = {
    **{name: name for name in image_stats.COLORS},
    "gray": "grey",
    "violet": "purple",
    "beige": "brown",
}


def tokens(text: str) -> list[str]:
    """Return the words of a name such as ``mainColour`` or ``out-of focus``, lower case."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower())


def normalize(text: str) -> str:
    """Return the words of a value, in lower case, joined by underscores."""
    return "_".join(tokens(text))


def find_scale(name: str) -> str | None:
    """Return the scale that a field's name or description refers to, or None."""
    return next((_ABOUT[token] for token in tokens(name) if token in _ABOUT), None)


def find_meaning(text: str) -> Meaning | None:
    """Return the meaning of the longest known phrase in a text, considering ``not``, or None."""
    words = tokens(text)
    for length in range(min(3, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            phrase = "_".join(words[start : start + length])
            found = _MEANINGS.get(phrase)
            if found is not None and (phrase not in _AMBIGUOUS or not set(words) - {phrase} - _FILLERS):
                return found.negated() if NEGATIONS & set(words[:start]) else found
    return None


def nearest(appearance: Appearance, ranges: Mapping[str, Meaning]) -> str:
    """Return the word whose range contains the value (the narrowest of several), or else the nearest."""

    def rank(word: str) -> tuple[float, float]:
        meaning = ranges[word]
        return round(meaning.distance(appearance.scales[meaning.scale]), 6), meaning.high - meaning.low

    return min(ranges, key=rank)


def is_true(appearance: Appearance, text: str) -> bool | None:
    """Return whether a statement such as ``is_blurry`` is true, or None if it is not about appearance."""
    meaning = find_meaning(text)
    return None if meaning is None else meaning.distance(appearance.scales[meaning.scale]) == 0


def choose(appearance: Appearance, name: str, description: str, options: Sequence[str]) -> str | None:
    """Choose the option that applies to the image.

    Args:
        appearance: Appearance of the image.
        name: Name of the field.
        description: Description of the field; may be empty.
        options: Values of the enum.

    Returns:
        One of the options, or None if they are not about appearance.
    """
    definite = [option for option in options if normalize(option) not in UNKNOWN_VALUES]
    forms = {normalize(option): option for option in reversed(options)}
    if _YES & forms.keys() and _NO & forms.keys():
        truth = is_true(appearance, name)
        wanted = _NO if truth is False else _YES
        return None if truth is None else next(forms[form] for form in forms if form in wanted)
    colors = {COLOR_NAMES[form]: forms[form] for form in reversed(forms) if form in COLOR_NAMES}
    if len(colors) >= 3:
        return colors.get(appearance.whole.dominant_color)
    known = {option: meaning for option in definite if (meaning := find_meaning(option)) is not None}
    scales = Counter(meaning.scale for meaning in known.values())
    if len(scales.keys() - _GENERAL) > 1:
        return _first_true(appearance, options, known)
    alone = len(scales) == 1 and len(known) == len(definite)  # all options are on one scale
    scale = next((scale for scale in scales if alone or scale not in _GENERAL), None)
    ranges = _ranges(definite, scale, find_scale(name) or find_scale(description))
    if len(ranges) < 2 and len(ranges) < len(definite):
        return None
    return nearest(appearance, ranges) if ranges else None


def _first_true(appearance: Appearance, options: Sequence[str], known: Mapping[str, Meaning]) -> str | None:
    """Choose among statements about different scales, such as the main problem of an image."""
    for option, meaning in known.items():
        if meaning.distance(appearance.scales[meaning.scale]) == 0:
            return option
    nothing = next((option for option in options if normalize(option) in _NO_ISSUE_VALUES), None)
    unknown = next((option for option in options if normalize(option) in UNKNOWN_VALUES), None)
    return nothing or unknown or nearest(appearance, known)


def _ranges(options: Sequence[str], scale: str | None, subject: str | None) -> dict[str, Meaning]:
    """Return the range of each option with a known meaning, all on the same scale."""
    ranges = {}
    for option in options:
        form = normalize(option)
        meaning = find_meaning(option)
        if scale is not None and meaning is not None and meaning.scale == scale:
            ranges[option] = meaning
        elif scale == "light" and form in _OF_LIGHT:
            ranges[option] = Meaning(scale, *_OF_LIGHT[form])
        elif form in _VERDICT:
            good = "exposure" if subject in ("light", "brightness", "darkness") else subject
            ranges[option] = Meaning(scale or ("sharpness" if good == "blur" else good or "quality"), *_VERDICT[form])
        elif form in _AMOUNT and (scale or subject):
            ranges[option] = Meaning(scale or subject or "", *_AMOUNT[form])
        elif meaning is not None:
            ranges[option] = meaning
    return ranges

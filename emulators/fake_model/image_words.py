"""The words that can honestly be said of measurements: sharp, dark, muted, good, mostly blue.

Every word is a range on a scale from 0 to 1. So the local model can choose among the values of any enum,
and knows which statements are true, without anybody having told it what a task is about.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from imagebeam.emulators.fake_model import pixels
from imagebeam.emulators.fake_model.pixels import Measurements


@dataclass(frozen=True, slots=True)
class Meaning:
    """A range on a scale: what a word says.

    Attributes:
        scale: One of the scales of `Look.scales`.
        low: Least value of which it is true, 0 to 1.
        high: Greatest value of which it is true.
    """

    scale: str
    low: float
    high: float

    def distance(self, value: float) -> float:
        """Return how far a value is from the range; 0 inside."""
        return max(self.low - value, value - self.high, 0.0)

    def negated(self) -> "Meaning":
        """Return the larger rest of the scale."""
        return (
            replace(self, low=self.high, high=1.0) if self.low < 1 - self.high else replace(self, low=0, high=self.low)
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What one or several images look like, taken together.

    Attributes:
        whole: Means of the measurements; size and sharpness are those of the sharpest image.
        images: How many there are, at least 1.
        scales: Position on every scale, 0 to 1.
    """

    whole: Measurements
    images: int
    scales: Mapping[str, float]

    def words(self) -> tuple[str, str, str]:
        """Return its sharpness, light and colour, each as one word."""
        first, second, third = (
            nearest(self, {word.replace("_", " "): _MEANINGS[word] for word in words.split()})
            for words in ("blurry soft sharp", "dark well_exposed bright overexposed", "grey muted colourful")
        )
        return first, second, third

    def verdict(self) -> str:
        """Return in one short sentence what decides whether the image can be used."""
        sharpness, light, _ = self.words()
        if self.scales["worth"] >= USABLE:
            return f"It is {sharpness} and {light}."
        worst = min(("sharpness", "exposure", "size", "cover"), key=lambda scale: self.scales[scale])
        return {
            "sharpness": "It is too blurry.",
            "exposure": "It is too dark." if self.whole.brightness < 0.5 else "It is too bright.",
            "size": "It has too few pixels.",
            "cover": "Most of it is black.",
        }[worst]

    def sentence(self) -> str:
        """Return what was measured, as a sentence."""
        sharpness, light, colour = self.words()
        size = f"{self.whole.width} × {self.whole.height}"
        if self.images == 1:
            return f"A {sharpness}, {light}, {colour} {size} photograph, mostly {self.whole.dominant_colour}."
        return (
            f"{self.images} photographs, {light} and {colour} on the whole, mostly {self.whole.dominant_colour}; "
            f"the best one is {sharpness} and has {size} pixels."
        )


def look_at(measured: Sequence[Measurements]) -> Look | None:
    """Take measurements together; None when there are none."""
    if not measured:
        return None
    best = max(measured, key=lambda one: one.sharpness)

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in measured]))

    names = ("brightness", "contrast", "colourfulness", "edge_density", "entropy", "black_share", "white_share")
    means: dict[str, Any] = {name: mean(name) for name in names}
    whole = replace(
        best,
        **means,
        dominant_colour=Counter(one.dominant_colour for one in measured).most_common(1)[0][0],
        grey=all(one.grey for one in measured),
    )
    return Look(whole, len(measured), _scales(whole))


def _scales(whole: Measurements) -> dict[str, float]:
    sharp = _position(whole.sharpness, (0, pixels.SOFT, pixels.SHARP, 2.5), (0, 1 / 3, 2 / 3, 1))
    light = _position(whole.brightness, (0, pixels.DARK, pixels.BRIGHT, pixels.OVEREXPOSED, 1), (0, 0.3, 0.6, 0.8, 1))
    if whole.white_share >= pixels.BLOWN_OUT:
        light = max(light, 0.85)
    exposure = _position(light, (0, 0.15, 0.3, 0.4, 0.7, 0.8, 0.9, 1), (0, 0.2, 0.67, 1, 1, 0.67, 0.2, 0.05))
    size = _position(min(whole.width, whole.height), (16, pixels.TINY, 200), (0, 1 / 3, 1))
    cover = _position(whole.black_share, (0.4, 0.8), (1, 0.05))
    weakest = min(sharp, exposure, size, cover)
    return {
        "sharpness": sharp,
        "blur": 1 - sharp,
        "light": light,
        "brightness": whole.brightness,
        "darkness": 1 - whole.brightness,
        "exposure": exposure,
        "colour": _position(whole.colourfulness, (0, pixels.GREY, pixels.VIVID, 90), (0, 0.2, 0.6, 1)),
        "contrast": _position(whole.contrast, (0, pixels.FLAT, 0.2, 0.35), (0, 0.25, 0.67, 1)),
        "detail": min(1.0, 4 * whole.edge_density),
        "size": size,
        "blackness": whole.black_share,
        "cover": cover,
        "worth": weakest,
        "quality": 0.8 * weakest + 0.2 * (sharp + exposure + size) / 3,
    }


def _position(value: float, given: Sequence[float], wanted: Sequence[float]) -> float:
    return float(np.interp(value, given, wanted))


# -- words -------------------------------------------------------------------------------------------------


#: An image is usable when none of its qualities is worse than this.
USABLE: Final = 1 / 3


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text that spaces separate."""
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
    "colour": {
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
    "worth": {(0, 0.3333): "unusable worthless", (1 / 3, 1): "usable useable"},
}
#: Verdicts and amounts mean what the field is about.
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
#: Of light, the middle is what is good.
_OF_LIGHT: Final = dict.fromkeys(
    words_of("good normal ok okay fine well acceptable medium moderate average"), (0.3, 0.8)
)

#: Words that mean the image only when they stand alone: a street light is not bright.
_WEAK: Final = words_of(
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

#: What a field is about, by a word of its name.
_ABOUT: Final = {
    word: scale
    for scale, text in {
        "sharpness": "sharpness sharp focus clarity crispness",
        "blur": "blur blurry blurriness blurred",
        "light": "light lighting exposure illumination luminosity",
        "brightness": "brightness bright luminance",
        "darkness": "darkness dark",
        "colour": "colour color colours colors saturation colourfulness colorfulness vividness",
        "contrast": "contrast",
        "detail": "detail details texture edges complexity clutter edge",
        "size": "size resolution",
        "quality": "quality usability score rating overall condition legibility visibility readability usable",
    }.items()
    for word in text.split()
}

#: Scales of words that judge the image as a whole.
_GENERAL: Final = frozenset(("quality", "worth"))
#: Values that say that there is nothing to say.
ESCAPES: Final = words_of(
    "not_visible unclear unknown cannot_tell can_not_tell undetermined uncertain not_applicable na n_a other "
    "not_sure indeterminate unsure unspecified no_image cannot_say not_clear"
)
_NOTHING: Final = words_of("none no_issue no_issues nothing ok good fine no_problem no_problems normal")
_YES: Final = frozenset(("yes", "true", "y"))
_NO: Final = frozenset(("no", "false", "n"))
_FILLING: Final = words_of("is are has too very not no image photo picture photograph")
_NOT: Final = frozenset(("not", "no", "non", "without", "never"))
_COLOURS: Final = {name: name for name in pixels.COLOURS} | {"gray": "grey", "violet": "purple", "beige": "brown"}


def tokens(text: str) -> list[str]:
    """Return the words of a name such as ``mainColour`` or ``out-of focus``, lower case."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower())


def joined(text: str) -> str:
    """Return a value as its words joined by underscores."""
    return "_".join(tokens(text))


def about(name: str) -> str | None:
    """Return the scale that a field's name or description is about, or None."""
    return next((_ABOUT[token] for token in tokens(name) if token in _ABOUT), None)


def meaning(text: str) -> Meaning | None:
    """Return what a text says by its longest known phrase, ``not`` taken into account; None if nothing."""
    words = tokens(text)
    for length in range(min(3, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            phrase = "_".join(words[start : start + length])
            found = _MEANINGS.get(phrase)
            if found is not None and (phrase not in _WEAK or not set(words) - {phrase} - _FILLING):
                return found.negated() if _NOT & set(words[:start]) else found
    return None


def nearest(look: Look, ranges: Mapping[str, Meaning]) -> str:
    """Return the word whose range holds the measured value, the narrowest first; else the nearest one."""

    def rank(word: str) -> tuple[float, float]:
        said = ranges[word]
        return round(said.distance(look.scales[said.scale]), 6), said.high - said.low

    return min(ranges, key=rank)


def true_of(look: Look, text: str) -> bool | None:
    """Say whether a statement such as ``is_blurry`` is true; None when it is about something else."""
    said = meaning(text)
    return None if said is None else said.distance(look.scales[said.scale]) == 0


def choose(look: Look, name: str, description: str, options: Sequence[str]) -> str | None:
    """Return the option that is true of what was measured.

    Args:
        look: What was measured.
        name: The field's name.
        description: Its description; may be empty.
        options: The values of its enum.

    Returns:
        One of the options, or None when they are about something that pixels do not tell.
    """
    spoken = [option for option in options if joined(option) not in ESCAPES]
    forms = {joined(option): option for option in reversed(options)}
    if _YES & forms.keys() and _NO & forms.keys():
        truth = true_of(look, name)
        wanted = _NO if truth is False else _YES
        return None if truth is None else next(forms[form] for form in forms if form in wanted)
    colours = {_COLOURS[form]: forms[form] for form in reversed(forms) if form in _COLOURS}
    if len(colours) >= 3:
        return colours.get(look.whole.dominant_colour)
    known = {option: said for option in spoken if (said := meaning(option)) is not None}
    scales = Counter(said.scale for said in known.values())
    if len(scales.keys() - _GENERAL) > 1:
        return _first_true(look, options, known)
    alone = len(scales) == 1 and len(known) == len(spoken)  # nothing else tells what it is about
    scale = next((scale for scale in scales if alone or scale not in _GENERAL), None)
    ranges = _ranges(spoken, scale, about(name) or about(description))
    if len(ranges) < 2 and len(ranges) < len(spoken):
        return None
    return nearest(look, ranges) if ranges else None


def _first_true(look: Look, options: Sequence[str], known: Mapping[str, Meaning]) -> str | None:
    """Choose among statements about different things, such as the main problem of an image."""
    for option, said in known.items():
        if said.distance(look.scales[said.scale]) == 0:
            return option
    nothing = next((option for option in options if joined(option) in _NOTHING), None)
    escape = next((option for option in options if joined(option) in ESCAPES), None)
    return nothing or escape or nearest(look, known)


def _ranges(options: Sequence[str], scale: str | None, subject: str | None) -> dict[str, Meaning]:
    """Return what each option says, as far as that is known, all on the same scale."""
    ranges = {}
    for option in options:
        form = joined(option)
        said = meaning(option)
        if scale is not None and said is not None and said.scale == scale:
            ranges[option] = said
        elif scale == "light" and form in _OF_LIGHT:
            ranges[option] = Meaning(scale, *_OF_LIGHT[form])
        elif form in _VERDICT:
            good = "exposure" if subject in ("light", "brightness", "darkness") else subject
            ranges[option] = Meaning(scale or ("sharpness" if good == "blur" else good or "quality"), *_VERDICT[form])
        elif form in _AMOUNT and (scale or subject):
            ranges[option] = Meaning(scale or subject or "", *_AMOUNT[form])
        elif said is not None:
            ranges[option] = said
    return ranges

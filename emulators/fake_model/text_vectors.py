"""Texts among the images: a text that speaks of how a picture looks points to pictures that look so.

Honest and simple: known are the words of `looks` (dark, overexposed, blurry, vivid, low resolution, redacted,
"not sharp" ...) and the colours of `pixels`. A text with none of them ("utility pole") gets a direction of
its own that is near nothing; that is all that pixels can say.
"""

import hashlib
from typing import Final

import numpy as np

from imagebeam.emulators.fake_model import pixels
from imagebeam.emulators.fake_model.image_vectors import LENGTH, SCALES, WORDS, Vector, project
from imagebeam.emulators.fake_model.image_words import meaning, tokens

_COLOURS: Final = {name: name for name in pixels.COLOURS} | {"gray": "grey", "violet": "purple", "beige": "brown"}
_LONGEST_PHRASE: Final = 3
_NOT: Final = frozenset(("not", "no", "non", "without", "never"))


def describe_text(text: str) -> Vector:
    """Return the description of a text, to be compared with those of images.

    >>> bool(describe_text("dark")[LENGTH - WORDS + SCALES.index("light")] < 0)
    True
    """
    said = np.zeros(WORDS)
    words = tokens(text)
    at = 0
    while at < len(words):
        at += _say(said, words, at)
    description = np.zeros(LENGTH)
    if said.any():
        description[-WORDS:] = said / np.linalg.norm(said)
        return description
    seed = int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "big")
    nothing = np.random.default_rng(seed).standard_normal(LENGTH - WORDS)
    description[:-WORDS] = nothing / np.linalg.norm(nothing)
    return description


def embed_text(text: str, dimension: int, space: str = "") -> list[float]:
    """Return the vector of one text, of length 1, in the space of `embedding.embed`."""
    return project(describe_text(text), dimension, space)


def _say(said: Vector, words: list[str], at: int) -> int:
    """Add what the longest phrase that begins here says; return how many words it has."""
    sign = -1.0 if at and words[at - 1] in _NOT else 1.0
    for length in range(min(_LONGEST_PHRASE, len(words) - at), 0, -1):
        phrase = words[at : at + length]
        if phrase[0] in _NOT and length > 1:
            continue
        found = meaning("_".join(phrase)) if length == 1 or _whole(phrase) else None
        colour = _COLOURS.get(phrase[0]) if length == 1 else None
        if found is not None and found.scale in SCALES:
            said[SCALES.index(found.scale)] += sign * (found.low + found.high - 1)
        if colour is not None:
            said[len(SCALES) + pixels.COLOURS.index(colour)] += sign
        if colour is not None or found is not None:
            return length
    return 1


def _whole(phrase: list[str]) -> bool:
    """Say whether a phrase means something that its parts do not: ``low_resolution``, not ``dark_road``."""
    return meaning("_".join(phrase)) is not None and all(meaning(word) is None for word in phrase)

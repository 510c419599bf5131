"""The local text embeddings: a text about appearance is near the images with that appearance.

Known are the words of `image_words` (dark, overexposed, blurry, vivid, low resolution, redacted, "not sharp", ...)
and the colors of `image_stats`. Any other text ("utility pole") gets a pseudo-random vector that is near no image.
"""

import hashlib
from typing import Final

import numpy as np

from imagebeam.emulators.fake_model import image_stats
from imagebeam.emulators.fake_model.image_vectors import DESCRIPTION_LENGTH, SCALES, WORD_LENGTH, Vector
from imagebeam.emulators.fake_model.image_words import COLOR_NAMES, NEGATIONS, find_meaning, tokens

_MAX_PHRASE_WORDS: Final = 3


def describe_text(text: str) -> Vector:
    """Return the descriptor of a text, which is comparable with those of images.

    >>> bool(describe_text("dark")[DESCRIPTION_LENGTH - WORD_LENGTH + SCALES.index("light")] < 0)
    True
    """
    words_part = np.zeros(WORD_LENGTH)
    words = tokens(text)
    at = 0
    while at < len(words):
        at += _add_phrase(words_part, words, at)
    description = np.zeros(DESCRIPTION_LENGTH)
    if words_part.any():
        description[-WORD_LENGTH:] = words_part / np.linalg.norm(words_part)
        return description
    seed = int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "big")
    unrelated = np.random.default_rng(seed).standard_normal(DESCRIPTION_LENGTH - WORD_LENGTH)
    description[:-WORD_LENGTH] = unrelated / np.linalg.norm(unrelated)
    return description


def _add_phrase(words_part: Vector, words: list[str], at: int) -> int:
    """Add the meaning of the longest known phrase at a position; return its number of words."""
    sign = -1.0 if at and words[at - 1] in NEGATIONS else 1.0
    for length in range(min(_MAX_PHRASE_WORDS, len(words) - at), 0, -1):
        phrase = words[at : at + length]
        if phrase[0] in NEGATIONS and length > 1:
            continue
        found = find_meaning("_".join(phrase)) if length == 1 or _is_compound(phrase) else None
        color = COLOR_NAMES.get(phrase[0]) if length == 1 else None
        if found is not None and found.scale in SCALES:
            words_part[SCALES.index(found.scale)] += sign * (found.low + found.high - 1)
        if color is not None:
            words_part[len(SCALES) + image_stats.COLORS.index(color)] += sign
        if color is not None or found is not None:
            return length
    return 1


def _is_compound(phrase: list[str]) -> bool:
    """Return whether a phrase has a meaning that its words lack: ``low_resolution``, not ``dark_road``."""
    return find_meaning("_".join(phrase)) is not None and all(find_meaning(word) is None for word in phrase)

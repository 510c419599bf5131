"""The answers of the local model: any response schema, filled from the statistics of the images.

Fields about appearance get true values. Other values are derived from a hash of prompt, images and seed, so that the
same request always gets the same answer. Schemas are those of Gemini's ``responseSchema`` (an OpenAPI subset), with
types in upper or lower case and names in camelCase or snake_case.
"""

import datetime
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, Final

import orjson

from imagebeam.emulators.fake_model.image_stats import ImageStats
from imagebeam.emulators.fake_model.image_words import (
    UNKNOWN_VALUES,
    Appearance,
    choose,
    find_meaning,
    find_scale,
    is_true,
    normalize,
    summarize,
    tokens,
    words_of,
)

#: Suffix of free-text answers.
DISCLAIMER: Final = "(imagebeam-emulator measures pixels; it is not Gemini.)"

_NO_IMAGE: Final = "There is no image to look at."
#: Usability below which nothing is recognizable: fields about content then get a value for "unknown".
_UNRECOGNIZABLE: Final = 0.12
_RANGE: Final = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:to|-|–|—|\.\.|through)\s*(-?\d+(?:\.\d+)?)")
_DESCRIPTION_WORDS: Final = words_of(
    "description summary caption notes note comment comments text analysis details detail answer observation evidence"
)
#: Words for text in the image, which the statistics do not cover.
_OCR_WORDS: Final = words_of("text ocr letters transcription inscription wording plate")
_REASON_WORDS: Final = words_of("reason reasons reasoning explanation rationale justification")
_COUNT_WORDS: Final = words_of("count counts number amount total how many")
_EPOCH: Final = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def fill(schema: Mapping[str, Any] | None, prompt: str, measured: Sequence[ImageStats], seed: int) -> str:
    """Return the answer to a request.

    Args:
        schema: Response schema; None for free text.
        prompt: Text of the request.
        measured: Statistics of its images, in order.
        seed: Seed of values that the statistics do not determine.

    Returns:
        JSON that conforms to the schema, or a sentence.
    """
    appearance = summarize(measured)
    if schema is None:
        return f"{appearance.sentence() if appearance else _NO_IMAGE} {DISCLAIMER}"
    basis = hashlib.blake2b(repr((seed, prompt, [astuple(stats) for stats in measured])).encode()).digest()
    return orjson.dumps(_Filler(appearance, basis).value(schema, "", ())).decode()


class _Filler:
    """Fills one schema.

    Args:
        appearance: Appearance of the images; None without images.
        basis: Hash of the request, from which pseudo-random values are derived.
    """

    def __init__(self, appearance: Appearance | None, basis: bytes) -> None:
        self._appearance = appearance
        self._basis = basis

    def value(self, schema: Mapping[str, Any], name: str, path: tuple[str, ...]) -> Any:
        """Return a value that conforms to a schema.

        Args:
            schema: The schema.
            name: Name of the field; empty at the top level.
            path: Path of the field, from which its pseudo-random values are derived.
        """
        choices = _get(schema, "anyOf") or _get(schema, "oneOf")
        if choices:
            solid = [choice for choice in choices if _kind(choice) != "NULL"]
            if not solid:
                return None
            # Keys beside anyOf apply to every choice.
            shared = {key: item for key, item in schema.items() if key not in ("anyOf", "any_of", "oneOf", "one_of")}
            nullable = len(solid) < len(choices)
            return self.value({**shared, **solid[0], **({"nullable": True} if nullable else {})}, name, path)
        description = str(schema.get("description") or "")
        kind = _kind(schema)
        if kind == "NULL" or (self._is_null(schema, kind, name, path)):
            return None
        if kind == "OBJECT":
            return self._object(schema, path)
        if kind == "ARRAY":
            return self._array(schema, name, path)
        if schema.get("enum"):
            return self._choice(schema, kind, name, description, path)
        if kind in ("NUMBER", "INTEGER"):
            return self._number(schema, kind, name, description, path)
        if kind == "BOOLEAN":
            return self._boolean(name, path)
        return self._text(schema, name, path)

    def _is_null(self, schema: Mapping[str, Any], kind: str, name: str, path: tuple[str, ...]) -> bool:
        """Return whether a nullable value is null: if it cannot be determined, and sometimes at random."""
        listed = schema.get("type")
        if not (schema.get("nullable") or (isinstance(listed, list) and "null" in [str(x).lower() for x in listed])):
            return False
        if self._appearance is None:
            return True
        if kind == "STRING" and set(tokens(name)) & _OCR_WORDS:
            return True
        known = find_scale(name) is not None or find_meaning(name) is not None or kind in ("OBJECT", "ARRAY")
        return not known and not schema.get("enum") and self._random((*path, "null")) < 0.5

    def _object(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        order = [name for name in _get(schema, "propertyOrdering") or () if name in properties]
        names = dict.fromkeys((*order, *properties))
        return {name: self.value(properties[name], name, (*path, name)) for name in names}

    def _array(self, schema: Mapping[str, Any], name: str, path: tuple[str, ...]) -> list[Any]:
        least = int(_get(schema, "minItems") or 0)
        given = _get(schema, "maxItems")
        most = max(least, 10 if given is None else int(given))
        items = schema.get("items") or {"type": "STRING"}
        options = items.get("enum")
        if options and _kind(items) == "STRING":
            return self._choose_several(options, least, most, path)
        count = min(max(least, 1 + int(3 * self._random((*path, "count")))), most)
        if self._appearance is None:
            count = least
        return [self.value(items, name, (*path, str(number))) for number in range(count)]

    def _choose_several(self, options: Sequence[str], least: int, most: int, path: tuple[str, ...]) -> list[str]:
        """Choose the true statements; if none is about appearance, choose one at random."""
        chosen: list[str] = []
        if self._appearance is not None:
            truths = {option: is_true(self._appearance, option) for option in options}
            chosen = [option for option, truth in truths.items() if truth]
            if not chosen and all(truth is None for truth in truths.values()):
                chosen = [self._pick(options, path)]
            elif not chosen:
                chosen = [option for option in options if normalize(option) in ("none", "nothing", "no_issues")][:1]
        spare = [option for option in options if option not in chosen] or list(options)
        chosen += [spare[number % len(spare)] for number in range(least - len(chosen))]
        return chosen[:most]

    def _choice(self, schema: Mapping[str, Any], kind: str, name: str, description: str, path: tuple[str, ...]) -> Any:
        values = [value for value in schema["enum"] if value is not None]
        if not values:
            return None
        options = {str(value): value for value in reversed(values)}
        texts = [str(value) for value in values]
        picked = choose(self._appearance, name, description, texts) if self._appearance is not None else None
        if picked is None:
            unknown = next((text for text in texts if normalize(text) in UNKNOWN_VALUES), None)
            unrecognizable = self._appearance is None or self._appearance.scales["usability"] < _UNRECOGNIZABLE
            picked = unknown if unknown is not None and unrecognizable else self._pick(texts, path)
        value = options[picked]
        if isinstance(value, str) and kind in ("INTEGER", "NUMBER"):
            return int(value) if kind == "INTEGER" else float(value)
        return value

    def _number(
        self, schema: Mapping[str, Any], kind: str, name: str, description: str, path: tuple[str, ...]
    ) -> int | float:
        words = set(tokens(name))
        low, high = _bounds(schema, description, words, whole=kind == "INTEGER")
        value = self._exact_number(words)
        if value is None:
            share = self._position(name, description, path)
            value = low * (1 - share) + high * share  # high - low may overflow a float
        if kind == "INTEGER":
            least, most = math.ceil(low), math.floor(high)
            return max(min(round(value), most), least)
        return max(min(round(value, 3), high), low)

    def _exact_number(self, words: set[str]) -> float | None:
        """Return a number that is known exactly: a count of images, width or height; else None."""
        appearance = self._appearance
        if appearance is None:
            return None
        if words & {"count", "number"} and words & {"image", "images", "photo", "photos", "view", "views"}:
            return appearance.images
        return next((float(getattr(appearance.whole, side)) for side in ("width", "height") if side in words), None)

    def _position(self, name: str, description: str, path: tuple[str, ...]) -> float:
        """Return the position of a number in its range, 0 to 1."""
        if self._appearance is None:
            return 0.0
        quality = self._appearance.scales["quality"]
        if set(tokens(name)) & {"confidence", "certainty", "probability"}:
            return 0.5 + quality / 2
        subject = find_scale(name)
        if subject is not None:
            return self._appearance.scales[subject]
        many = _COUNT_WORDS & set(tokens(f"{name} {description}"))
        return self._random(path) ** 4 if many else self._random(path)  # small counts are more likely

    def _boolean(self, name: str, path: tuple[str, ...]) -> bool:
        if self._appearance is None:
            return False
        truth = is_true(self._appearance, name)
        return self._random(path) < 0.5 if truth is None else truth

    def _text(self, schema: Mapping[str, Any], name: str, path: tuple[str, ...]) -> str:
        form = str(schema.get("format") or "").lower()
        moment = _EPOCH + datetime.timedelta(seconds=int(self._random(path) * 31_536_000))
        if form == "date-time":
            return moment.isoformat().replace("+00:00", "Z")
        if form == "date":
            return moment.date().isoformat()
        if form == "time":
            return moment.time().isoformat() + "Z"
        if form == "duration":
            return f"{int(self._random(path) * 3600)}s"
        text = self._short_text(set(tokens(name)))
        longest = _get(schema, "maxLength")
        text = text if longest is None else text[: int(longest)]
        return text.ljust(int(_get(schema, "minLength") or 0), ".")

    def _short_text(self, words: set[str]) -> str:
        appearance = self._appearance
        if appearance is None:
            return _NO_IMAGE
        if words & {"colour", "color", "colours", "colors"}:
            return appearance.whole.dominant_color
        if words & _REASON_WORDS:
            return appearance.assessment()
        if words & _DESCRIPTION_WORDS or not words:
            return appearance.sentence()
        return ", ".join((*appearance.words(), f"mostly {appearance.whole.dominant_color}"))

    def _pick(self, options: Sequence[str], path: tuple[str, ...]) -> str:
        solid = [option for option in options if normalize(option) not in UNKNOWN_VALUES] or list(options)
        return solid[int(self._random(path) * len(solid))]

    def _random(self, path: tuple[str, ...]) -> float:
        """Return a pseudo-random number from 0 (inclusive) to 1 (exclusive) that depends on the path."""
        digest = hashlib.blake2b("\0".join(path).encode(), key=self._basis, digest_size=6).digest()
        return int.from_bytes(digest, "big") / 2**48


def _get(schema: Mapping[str, Any], key: str) -> Any:
    """Return an entry of a schema by its name in camelCase or snake_case."""
    found = schema.get(key)
    return found if found is not None else schema.get(re.sub(r"([A-Z])", r"_\1", key).lower())


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type in upper case, inferred if the schema has none."""
    given = schema.get("type")
    if isinstance(given, list):
        given = next((name for name in given if str(name).upper() != "NULL"), "NULL")
    if given and str(given).upper() != "TYPE_UNSPECIFIED":
        return str(given).upper()
    if "properties" in schema:
        return "OBJECT"
    return "ARRAY" if "items" in schema else "STRING"


def _bounds(schema: Mapping[str, Any], description: str, words: set[str], *, whole: bool) -> tuple[float, float]:
    """Return the limits of a number: from the schema, its description, or a usual range."""
    low: float | None = schema.get("minimum")
    high: float | None = schema.get("maximum")
    usual = (0.0, 10.0 if whole else 1.0)
    if words & {"percent", "percentage", "pct"}:
        usual = (0.0, 100.0)
    elif words & {"stars", "rating", "grade"}:
        usual = (1.0, 5.0)
    stated = _RANGE.search(description)
    if stated is not None and float(stated[1]) < float(stated[2]):
        usual = (float(stated[1]), float(stated[2]))
    if low is None:
        return usual if high is None else (min(usual[0], high), high)
    return low, max(usual[1], low + usual[1] - usual[0]) if high is None else high

"""The local model's answers: any response schema, filled from what was measured on the images.

What pixels tell is answered truthfully; the rest is drawn from a hash of prompt, images and seed, so that
the same request always gets the same answer. Schemas are those of Gemini's ``responseSchema`` (an OpenAPI
subset), with types in either case and names in camelCase or snake_case.
"""

import datetime
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from imagebeam.emulators.fake_model.image_words import (
    ESCAPES,
    Look,
    about,
    choose,
    joined,
    look_at,
    meaning,
    tokens,
    true_of,
    words_of,
)
from imagebeam.emulators.fake_model.pixels import Measurements

#: Who answers, for free text.
DISCLAIMER: Final = "(imagebeam-emulator measures pixels; it is no Gemini.)"

_NO_IMAGE: Final = "There is no image to look at."
#: Below this quality nothing can be recognised, and questions about content get a "cannot tell".
_HOPELESS: Final = 0.12
_RANGE: Final = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:to|-|–|—|\.\.|through)\s*(-?\d+(?:\.\d+)?)")
_LONG: Final = words_of(
    "description summary caption notes note comment comments text analysis details detail answer observation evidence"
)
#: What is written in the picture: pixels do not tell.
_LETTERS: Final = words_of("text ocr letters transcription inscription wording plate")
_WHY: Final = words_of("reason reasons reasoning explanation rationale justification")
_MANY: Final = words_of("count counts number amount total how many")
_EPOCH: Final = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def fill(schema: Mapping[str, Any] | None, prompt: str, measured: Sequence[Measurements], seed: int) -> str:
    """Answer a request.

    Args:
        schema: The response schema; None asks for free text.
        prompt: All text of the request.
        measured: Measurements of its images, in their order.
        seed: Of everything that pixels do not tell.

    Returns:
        The answer's text: JSON that fits the schema, or a sentence.
    """
    look = look_at(measured)
    if schema is None:
        return f"{look.sentence() if look else _NO_IMAGE} {DISCLAIMER}"
    basis = hashlib.blake2b(repr((seed, prompt, tuple(measured))).encode()).digest()
    return orjson.dumps(_Filler(look, basis).value(schema, "", ())).decode()


class _Filler:
    """Fills one schema.

    Args:
        look: What was measured; None without images.
        basis: Hash of the request, from which everything else is drawn.
    """

    def __init__(self, look: Look | None, basis: bytes) -> None:
        self._look = look
        self._basis = basis

    def value(self, schema: Mapping[str, Any], name: str, path: tuple[str, ...]) -> Any:
        """Return a value that fits a schema.

        Args:
            schema: The schema.
            name: The field, as far as it has one.
            path: Where it is, to draw another number for every place.
        """
        choices = _get(schema, "anyOf") or _get(schema, "oneOf")
        if choices:
            solid = [choice for choice in choices if _kind(choice) != "NULL"]
            if not solid:
                return None
            # What stands beside anyOf holds for every choice.
            shared = {key: item for key, item in schema.items() if key not in ("anyOf", "any_of", "oneOf", "one_of")}
            nullable = len(solid) < len(choices)
            return self.value({**shared, **solid[0], **({"nullable": True} if nullable else {})}, name, path)
        description = str(schema.get("description") or "")
        kind = _kind(schema)
        if kind == "NULL" or (self._leaves_out(schema, kind, name, path)):
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
            return self._truth(name, path)
        return self._text(schema, name, path)

    def _leaves_out(self, schema: Mapping[str, Any], kind: str, name: str, path: tuple[str, ...]) -> bool:
        """Say whether a nullable value is null: when there is nothing to tell, and now and then."""
        listed = schema.get("type")
        if not (schema.get("nullable") or (isinstance(listed, list) and "null" in [str(x).lower() for x in listed])):
            return False
        if self._look is None:
            return True
        if kind == "STRING" and set(tokens(name)) & _LETTERS:
            return True
        told = about(name) is not None or meaning(name) is not None or kind in ("OBJECT", "ARRAY")
        return not told and not schema.get("enum") and self._draw((*path, "null")) < 0.5

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
            return self._several(options, least, most, path)
        count = min(max(least, 1 + int(3 * self._draw((*path, "count")))), most)
        if self._look is None:
            count = least
        return [self.value(items, name, (*path, str(number))) for number in range(count)]

    def _several(self, options: Sequence[str], least: int, most: int, path: tuple[str, ...]) -> list[str]:
        """Choose the statements that are true; where none says anything of pixels, one by chance."""
        chosen: list[str] = []
        if self._look is not None:
            said = {option: true_of(self._look, option) for option in options}
            chosen = [option for option, truth in said.items() if truth]
            if not chosen and all(truth is None for truth in said.values()):
                chosen = [self._any(options, path)]
            elif not chosen:
                chosen = [option for option in options if joined(option) in ("none", "nothing", "no_issues")][:1]
        spare = [option for option in options if option not in chosen] or list(options)
        chosen += [spare[number % len(spare)] for number in range(least - len(chosen))]
        return chosen[:most]

    def _choice(self, schema: Mapping[str, Any], kind: str, name: str, description: str, path: tuple[str, ...]) -> Any:
        values = [value for value in schema["enum"] if value is not None]
        if not values:
            return None
        options = {str(value): value for value in reversed(values)}
        texts = [str(value) for value in values]
        picked = choose(self._look, name, description, texts) if self._look is not None else None
        if picked is None:
            escape = next((text for text in texts if joined(text) in ESCAPES), None)
            blind = self._look is None or self._look.scales["worth"] < _HOPELESS
            picked = escape if escape is not None and blind else self._any(texts, path)
        value = options[picked]
        if isinstance(value, str) and kind in ("INTEGER", "NUMBER"):
            return int(value) if kind == "INTEGER" else float(value)
        return value

    def _number(
        self, schema: Mapping[str, Any], kind: str, name: str, description: str, path: tuple[str, ...]
    ) -> int | float:
        words = set(tokens(name))
        low, high = _bounds(schema, description, words, whole=kind == "INTEGER")
        value = self._exact(words)
        if value is None:
            share = self._share(name, description, path)
            value = low * (1 - share) + high * share  # high - low may be too big for a float
        if kind == "INTEGER":
            least, most = math.ceil(low), math.floor(high)
            return max(min(round(value), most), least)
        return max(min(round(value, 3), high), low)

    def _exact(self, words: set[str]) -> float | None:
        """Return a number that is what it is, whatever range the schema gives."""
        look = self._look
        if look is None:
            return None
        if words & {"count", "number"} and words & {"image", "images", "photo", "photos", "view", "views"}:
            return look.images
        return next((float(getattr(look.whole, side)) for side in ("width", "height") if side in words), None)

    def _share(self, name: str, description: str, path: tuple[str, ...]) -> float:
        """Return where in its range a number is, 0 to 1."""
        if self._look is None:
            return 0.0
        quality = self._look.scales["quality"]
        if set(tokens(name)) & {"confidence", "certainty", "probability"}:
            return 0.5 + quality / 2
        subject = about(name)
        if subject is not None:
            return self._look.scales[subject]
        many = _MANY & set(tokens(f"{name} {description}"))
        return self._draw(path) ** 4 if many else self._draw(path)  # there are rarely many of a thing

    def _truth(self, name: str, path: tuple[str, ...]) -> bool:
        if self._look is None:
            return False
        truth = true_of(self._look, name)
        return self._draw(path) < 0.5 if truth is None else truth

    def _text(self, schema: Mapping[str, Any], name: str, path: tuple[str, ...]) -> str:
        form = str(schema.get("format") or "").lower()
        moment = _EPOCH + datetime.timedelta(seconds=int(self._draw(path) * 31_536_000))
        if form == "date-time":
            return moment.isoformat().replace("+00:00", "Z")
        if form == "date":
            return moment.date().isoformat()
        if form == "time":
            return moment.time().isoformat() + "Z"
        if form == "duration":
            return f"{int(self._draw(path) * 3600)}s"
        text = self._words(set(tokens(name)))
        longest = _get(schema, "maxLength")
        text = text if longest is None else text[: int(longest)]
        return text.ljust(int(_get(schema, "minLength") or 0), ".")

    def _words(self, words: set[str]) -> str:
        look = self._look
        if look is None:
            return _NO_IMAGE
        if words & {"colour", "color", "colours", "colors"}:
            return look.whole.dominant_colour
        if words & _WHY:
            return look.verdict()
        if words & _LONG or not words:
            return look.sentence()
        return ", ".join((*look.words(), f"mostly {look.whole.dominant_colour}"))

    def _any(self, options: Sequence[str], path: tuple[str, ...]) -> str:
        solid = [option for option in options if joined(option) not in ESCAPES] or list(options)
        return solid[int(self._draw(path) * len(solid))]

    def _draw(self, path: tuple[str, ...]) -> float:
        """Return a number from 0 up to but not including 1 that is always the same at this place."""
        digest = hashlib.blake2b("\0".join(path).encode(), key=self._basis, digest_size=6).digest()
        return int.from_bytes(digest, "big") / 2**48


def _get(schema: Mapping[str, Any], key: str) -> Any:
    """Return a schema's entry by its camelCase name or the snake_case one."""
    found = schema.get(key)
    return found if found is not None else schema.get(re.sub(r"([A-Z])", r"_\1", key).lower())


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type, upper case; guessed where the schema has none."""
    given = schema.get("type")
    if isinstance(given, list):
        given = next((name for name in given if str(name).upper() != "NULL"), "NULL")
    if given and str(given).upper() != "TYPE_UNSPECIFIED":
        return str(given).upper()
    if "properties" in schema:
        return "OBJECT"
    return "ARRAY" if "items" in schema else "STRING"


def _bounds(schema: Mapping[str, Any], description: str, words: set[str], *, whole: bool) -> tuple[float, float]:
    """Return the least and the greatest number that fit: as the schema says, its description, or usage."""
    low: float | None = schema.get("minimum")
    high: float | None = schema.get("maximum")
    usual = (0.0, 10.0 if whole else 1.0)
    if words & {"percent", "percentage", "pct"}:
        usual = (0.0, 100.0)
    elif words & {"stars", "rating", "grade"}:
        usual = (1.0, 5.0)
    said = _RANGE.search(description)
    if said is not None and float(said[1]) < float(said[2]):
        usual = (float(said[1]), float(said[2]))
    if low is None:
        return usual if high is None else (min(usual[0], high), high)
    return low, max(usual[1], low + usual[1] - usual[0]) if high is None else high

"""Validation of ``generateContent`` and ``countTokens`` requests.

What Gemini rejects is a 400. What Gemini supports and the local service lacks is a 501 that names the feature, so
that it is not mistaken for an invalid request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.generate.config import Generation, read_generation
from imagebeam.emulators.vertex.generate.fields import Fields, invalid, read_fields
from imagebeam.emulators.vertex.models import IMAGE_TOKENS, Model

#: Supported image types.
IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
#: Maximum size of a request body, and of an inline image, in bytes.
BODY_BYTES: Final = 20 * 1024 * 1024
INLINE_BYTES: Final = 7 * 1024 * 1024
#: Maximum number of images per request.
MAX_IMAGES: Final = 3000

_GENERATE: Final = (
    "contents", "systemInstruction", "generationConfig", "safetySettings", "labels", "continuationToken",
    "cachedContent", "tools", "toolConfig", "modelArmorConfig",
)  # fmt: skip
_COUNT: Final = ("contents", "systemInstruction", "generationConfig", "model", "tools", "instances")
_UNSUPPORTED: Final = ("cachedContent", "tools", "toolConfig", "modelArmorConfig", "instances")
_PART_DATA: Final = (
    "text", "inlineData", "fileData",
    "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
)  # fmt: skip
_PART: Final = (*_PART_DATA, "mediaResolution", "thought", "thoughtSignature", "videoMetadata")
_UNSUPPORTED_PARTS: Final = (*_PART_DATA[3:], "videoMetadata")
_HARMS: Final = ("HATE_SPEECH", "DANGEROUS_CONTENT", "HARASSMENT", "SEXUALLY_EXPLICIT", "CIVIC_INTEGRITY", "JAILBREAK")
_THRESHOLDS: Final = ("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF")
_LABELS: Final = 64
_LABEL_CHARS: Final = 63
_LEARN: Final = "Learn more: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/gemini"


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image of a request.

    Attributes:
        mime_type: Declared MIME type.
        uri: URI, or None for an inline image.
        data: Bytes in base64, or None for a URI.
        tokens: Prompt tokens of the image.
    """

    mime_type: str
    uri: str | None
    data: str | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A checked request.

    Attributes:
        model: The requested model.
        images: Images, in order.
        text: All text parts of ``contents``, one per line.
        text_tokens: Tokens of the text, the system instruction and the schema.
        generation: Generation settings.
        continuation: ``continuationToken`` of an earlier answer, or None.
    """

    model: Model
    images: tuple[InputImage, ...]
    text: str
    text_tokens: int
    generation: Generation
    continuation: str | None

    @property
    def uris(self) -> tuple[str, ...]:
        """URIs of the images that have one, without repetitions."""
        return tuple(dict.fromkeys(image.uri for image in self.images if image.uri))

    @property
    def image_tokens(self) -> int:
        """Tokens of all images."""
        return sum(image.tokens for image in self.images)

    @property
    def tokens(self) -> int:
        """Tokens of the whole prompt."""
        return self.text_tokens + self.image_tokens


def count_text(*texts: str) -> int:
    """Return the number of tokens: one per four characters of each text, rounded up."""
    return sum(-(-len(text) // 4) for text in texts)


def read_prompt(body: Mapping[str, Any], model: Model, *, counting: bool = False) -> Prompt:
    """Check a request.

    Args:
        body: JSON body of ``generateContent`` or ``countTokens``, in camelCase or snake_case.
        model: The requested model.
        counting: Whether the request is for ``countTokens``.

    Raises:
        ApiError: 400 for what Gemini rejects, 501 for features that the local service lacks.
    """
    fields = read_fields(body, _COUNT if counting else _GENERATE, "")
    if "safetySettings" in fields and "modelArmorConfig" in fields:
        raise ApiError(400, "Only one of safety_settings and model_armor_config can be set.")
    _refuse(fields, _UNSUPPORTED, "")
    _check_safety(fields.get("safetySettings"))
    _check_labels(fields.get("labels"))
    generation = read_generation(fields.get("generationConfig", {}), model)
    texts, images = _read_contents(fields.get("contents"), model, generation.resolution)
    system = _read_system(fields.get("systemInstruction"))
    token = fields.get("continuationToken")
    return Prompt(
        model=model,
        images=tuple(images),
        text="\n".join(texts),
        text_tokens=count_text(*texts, *system, generation.schema_text),
        generation=generation,
        continuation=None if token is None else str(token),
    )


def _refuse(fields: Fields, names: tuple[str, ...], path: str) -> None:
    for name in names:
        if name in fields:
            raise ApiError(501, f"The local Vertex AI does not implement {path}{name}.")


# Contents


def _read_contents(contents: Any, model: Model, resolution: str) -> tuple[list[str], list[InputImage]]:
    contents = [contents] if isinstance(contents, dict) else contents
    if not isinstance(contents, list) or not contents:
        raise ApiError(
            400,
            "Unable to submit request because at least one contents field is required. "
            f"Add a contents field and try again. {_LEARN}",
        )
    texts: list[str] = []
    images: list[InputImage] = []
    role = None
    for number, content in enumerate(contents):
        path = f"contents[{number}]"
        turn = read_fields(content, ("role", "parts"), path)
        role = turn.get("role")
        if role not in ("user", "model"):
            raise ApiError(400, "Please use a valid role: user, model.")
        for index, part in enumerate(_parts(turn, path)):
            found = _read_part(part, model, resolution, f"{path}.parts[{index}]")
            (texts if isinstance(found, str) else images).append(found)  # type: ignore[arg-type]
    if role == "model" and not model.allows_model_last_turn:
        raise ApiError(400, f"Model {model.name} does not support a last turn of role model: end with role user.")
    if len(images) > MAX_IMAGES:
        raise ApiError(400, f"Too many images: {len(images)}. At most {MAX_IMAGES} images are allowed per prompt.")
    return texts, images


def _parts(turn: Fields, path: str) -> list[Any]:
    parts = turn.get("parts")
    parts = [parts] if isinstance(parts, dict) else parts
    if not isinstance(parts, list) or not parts:
        raise ApiError(
            400,
            "Unable to submit request because it must include at least one parts field, which describes the prompt "
            f"input ({path}). {_LEARN}",
        )
    return parts


def _read_part(part: Any, model: Model, resolution: str, path: str) -> str | InputImage:
    fields = read_fields(part, _PART, path)
    _refuse(fields, _UNSUPPORTED_PARTS, f"{path}.")
    kinds = [name for name in _PART_DATA if name in fields]
    if len(kinds) != 1:
        raise ApiError(400, f"{path}.data: required oneof field 'data' must have one initialized field.")
    if kinds == ["text"]:
        text = fields["text"]
        if not isinstance(text, str):
            raise invalid(f"{path}.text", "must be a string")
        if not text:
            raise ApiError(
                400,
                "Unable to submit request because it has an empty text parameter. "
                f"Add a value to the parameter and try again ({path}). {_LEARN}",
            )
        return text
    tokens = model.image_tokens(_part_resolution(fields.get("mediaResolution"), model, resolution, path))
    if kinds == ["fileData"]:
        data = read_fields(fields["fileData"], ("mimeType", "fileUri", "displayName"), f"{path}.file_data")
        return InputImage(_mime_type(data, f"{path}.file_data"), _uri(data, path), None, tokens)
    data = read_fields(fields["inlineData"], ("mimeType", "data", "displayName"), f"{path}.inline_data")
    return InputImage(_mime_type(data, f"{path}.inline_data"), None, _inline(data, path), tokens)


def _part_resolution(value: Any, model: Model, resolution: str, path: str) -> str:
    if value is None:
        return resolution
    level = read_fields(value, ("level",), f"{path}.media_resolution").get("level")
    if not isinstance(level, str) or level not in IMAGE_TOKENS:
        raise invalid(f"{path}.media_resolution.level", f"{level!r} is not a media resolution")
    if model.generation < 3:
        raise ApiError(400, f"Media resolution per part is not supported for model {model.name}.")
    return level


def _mime_type(data: Fields, path: str) -> str:
    given = data.get("mimeType")
    if not isinstance(given, str) or not given:
        raise ApiError(
            400, f"Unable to submit request because it must have a mimeType parameter in {path}. Add it. {_LEARN}"
        )
    if given.startswith(("video/", "audio/", "text/")) or given == "application/pdf":
        raise ApiError(501, f"The local Vertex AI does not implement input of type {given}, only images.")
    if given not in IMAGE_TYPES:
        raise ApiError(
            400,
            f"Unable to submit request because it has a mimeType parameter with value {given}, which is not "
            f"supported. Update the mimeType and try again. {_LEARN}",
        )
    return given


def _uri(data: Fields, path: str) -> str:
    uri = data.get("fileUri")
    if not isinstance(uri, str) or not uri:
        raise ApiError(400, f"Unable to submit request because {path}.file_data has no file_uri. {_LEARN}")
    if uri.startswith(("http://", "https://")):
        raise ApiError(501, "The local Vertex AI does not implement file_uri of the Web, only gs:// objects.")
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket or not name:
        raise ApiError(400, f"Invalid file_uri: {uri}. It must be a Cloud Storage URI such as gs://bucket/object.")
    return uri


def _inline(data: Fields, path: str) -> str:
    encoded = data.get("data")
    if not isinstance(encoded, str) or not encoded:
        raise ApiError(400, f"Unable to submit request because {path}.inline_data has no data. {_LEARN}")
    if len(encoded) * 3 // 4 > INLINE_BYTES + 2:
        raise ApiError(400, f"The image in {path}.inline_data is too large: the limit is {INLINE_BYTES} bytes.")
    return encoded


def _read_system(value: Any) -> list[str]:
    if value is None:
        return []
    texts = []
    for index, part in enumerate(
        _parts(read_fields(value, ("role", "parts"), "system_instruction"), "system_instruction")
    ):
        fields = read_fields(part, _PART, f"system_instruction.parts[{index}]")
        if not isinstance(fields.get("text"), str):
            raise ApiError(400, "The system_instruction must have text parts only.")
        texts.append(fields["text"])
    return texts


# Safety settings and labels


def _check_safety(settings: Any) -> None:
    if settings is None:
        return
    if not isinstance(settings, list):
        raise invalid("safety_settings", "must be a list")
    seen = set()
    for index, setting in enumerate(settings):
        path = f"safety_settings[{index}]"
        fields = read_fields(setting, ("category", "threshold", "method"), path)
        harm = str(fields.get("category"))
        if harm.removeprefix("HARM_CATEGORY_") not in _HARMS or harm in _HARMS:
            raise invalid(f"{path}.category", repr(fields.get("category")))
        if fields.get("threshold") not in _THRESHOLDS:
            raise invalid(f"{path}.threshold", repr(fields.get("threshold")))
        if harm in seen:
            raise ApiError(400, f"Only one safety setting per category is allowed: {harm}")
        seen.add(harm)


def _check_labels(labels: Any) -> None:
    if labels is None:
        return
    if not isinstance(labels, dict):
        raise invalid("labels", "must be an object of strings")
    if len(labels) > _LABELS:
        raise ApiError(400, f"Too many labels: {len(labels)}. At most {_LABELS} are allowed.")
    for key, value in labels.items():
        if not key or not key[0].isalpha() or not _label(key):
            raise ApiError(
                400, f"Invalid label key {key!r}: 1 to 63 lowercase letters, digits, _ and -, beginning with a letter."
            )
        if not isinstance(value, str) or not _label(value):
            raise ApiError(400, f"Invalid value of label {key!r}: up to 63 lowercase letters, digits, _ and -.")


def _label(text: str) -> bool:
    return len(text) <= _LABEL_CHARS and text == text.lower() and all(sign.isalnum() or sign in "_-" for sign in text)

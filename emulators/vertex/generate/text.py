"""Generation of the answer text, online and in batch jobs."""

from collections.abc import Sequence

import orjson

from imagebeam.emulators.fake_model.image_stats import ImageStats
from imagebeam.emulators.fake_model.schema_filler import fill
from imagebeam.emulators.vertex.generate.validation import Prompt


def generate_text(prompt: Prompt, measured: Sequence[ImageStats], seed: int) -> str:
    """Return the text of the answer.

    Args:
        prompt: The checked request.
        measured: Statistics of its images, in order.
        seed: Seed of values that the pixels do not determine.
    """
    wanted = prompt.generation
    text = fill(wanted.schema, prompt.text, measured, seed)
    if wanted.mime_type == "text/x.enum":
        return str(orjson.loads(text))
    if wanted.mime_type == "application/json" and wanted.schema is None:
        return orjson.dumps({"answer": text}).decode()  # without a schema the model chooses the structure
    return text

"""What the local model writes about a prompt, whichever way the prompt came."""

from collections.abc import Sequence

import orjson

from imagebeam.emulators.fake_model.pixels import Measurements
from imagebeam.emulators.fake_model.schema_filler import fill
from imagebeam.emulators.vertex.generate.validation import Prompt


def think(prompt: Prompt, measured: Sequence[Measurements], seed: int) -> str:
    """Write the answer.

    Args:
        prompt: What is asked.
        measured: What is to be seen on its images, in their order.
        seed: Of everything that pixels do not tell.
    """
    wanted = prompt.generation
    text = fill(wanted.schema, prompt.text, measured, seed)
    if wanted.mime_type == "text/x.enum":
        return str(orjson.loads(text))
    if wanted.mime_type == "application/json" and wanted.schema is None:
        return orjson.dumps({"answer": text}).decode()  # JSON of the model's own making
    return text

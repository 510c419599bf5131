"""The one place that knows that there are two kinds of tasks: questions to Gemini, and vectors of images.

A kind of task is how its request is built, alone or as a line of a batch job, and how the answer is read (here),
over which method of the service
it goes (:mod:`vertex`, :mod:`embedding_client`), and what it costs (:mod:`pricing`, :mod:`worst_case`). All
else — reading, pace, budget, retry, recording, books — is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic

from imagebeam.transforms.core.records import Unit
from imagebeam.transforms.gemini.batch_requests import LineTemplate, line_template
from imagebeam.transforms.gemini.embedding_batch import EmbeddingLines, embedding_lines
from imagebeam.transforms.gemini.embeddings import build_embedding_request, read_embedding
from imagebeam.transforms.gemini.requests import ImagePart, build_request
from imagebeam.transforms.gemini.responses import Reply, read_reply
from imagebeam.transforms.tasks.embedding import EmbedTask
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task


def _kind(task: Any) -> str:
    """Tells the kinds apart, also as they are kept in JSON."""
    return "vector" if isinstance(task, EmbedTask) or (isinstance(task, dict) and "dimension" in task) else "question"


#: A task of either kind, for records that are kept as JSON: what is read back is of the kind that it was.
AnyTask = Annotated[
    Annotated[Task, pydantic.Tag("question")] | Annotated[EmbedTask, pydantic.Tag("vector")],
    pydantic.Discriminator(_kind),
]


def build_call(
    task: Task, profile: ModelProfile, unit: Unit, parts: Sequence[ImagePart], labels: Mapping[str, str]
) -> dict[str, Any]:
    """The body of the request about one unit; see :func:`~requests.build_request`."""
    if isinstance(task, EmbedTask):
        return build_embedding_request(task, parts)
    return build_request(task, profile, unit, parts, labels)


def build_lines(task: Task, profile: ModelProfile, labels: Mapping[str, str]) -> LineTemplate | EmbeddingLines:
    """What renders the lines of a batch job; see :func:`~batch_lines.line_template`.

    Raises:
        UserError: The task cannot go through a batch job; says why and what to do instead.
    """
    return embedding_lines(task) if isinstance(task, EmbedTask) else line_template(task, profile, labels)


def read_call(document: Mapping[str, Any], task: Task) -> Reply:
    """What an answer means; see :func:`~answers.read_reply`."""
    return read_embedding(document, task) if isinstance(task, EmbedTask) else read_reply(document, task)

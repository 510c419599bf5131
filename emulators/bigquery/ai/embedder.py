"""SQL functions of ``AI.GENERATE_EMBEDDING`` and ``ML.GENERATE_EMBEDDING``: one model call and one status per row.

The query succeeds even if rows fail: then ``embedding`` is empty and ``status`` has the reason. `ai.faults` configures
failures.
"""

from __future__ import annotations

from typing import Any, Final

import duckdb
import numpy as np
import orjson

from imagebeam.emulators.bigquery.ai.faults import RETRYABLE, AiFaults
from imagebeam.emulators.bigquery.catalog.object_tables import ObjectTables
from imagebeam.emulators.bigquery.catalog.registry import Registry
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.http import STATUS_NAMES, ApiError
from imagebeam.emulators.fake_model.image_vectors import Vector, project
from imagebeam.emulators.fake_model.text_vectors import describe_text
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, ImageDescriptors, embedding_model
from imagebeam.emulators.vertex.generate.validation import count_text

_RESULT_TYPE: Final = "STRUCT(embedding DOUBLE[], status VARCHAR, statistics JSON)"
_IMAGE_TOKENS: Final = 258
MACROS: Final = (
    """bq_make_ref(u, a) AS CASE WHEN u IS NULL THEN NULL ELSE struct_pack(uri := CAST(u AS VARCHAR),
        version := CAST(NULL AS VARCHAR), authorizer := CAST(a AS VARCHAR), details := CAST(NULL AS JSON)) END""",
    """bq_fetch_metadata(r) AS CASE WHEN r IS NULL THEN NULL ELSE struct_pack(uri := r.uri,
        version := coalesce(r.version, bq_object_version(r.uri)), authorizer := r.authorizer,
        details := CAST(bq_object_details(r.uri) AS JSON)) END""",
)


class Embedder:
    """Embeds rows. Thread-safe.

    Args:
        objects: Where URIs are read.
        object_tables: The metadata of an ObjectRef.
        registry: The connections.
        faults: The configured failures.
        counters: Branch ``bigquery.ai``: ``rows``, ``answered``, ``retryable``, ``permanent``, ``calls_per_key`` and
            ``answered_per_key`` (by URI or text), ``jobs``, ``max_running_jobs``.
    """

    def __init__(
        self,
        objects: ObjectStore,
        object_tables: ObjectTables,
        registry: Registry,
        faults: AiFaults,
        counters: Counters,
    ) -> None:
        self._descriptors = ImageDescriptors(objects)
        self._objects = objects
        self._object_tables = object_tables
        self._registry = registry
        self._faults = faults
        self._counters = counters

    def install(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Register the SQL functions with a connection and its cursors."""
        register: Any = connection.create_function  # its stubs do not allow the names of types
        register(
            "bq_embed_row", self.embed, ["VARCHAR", "VARCHAR"], _RESULT_TYPE, null_handling="special", side_effects=True
        )
        for name, function in (("bq_object_details", self._details), ("bq_object_version", self._version)):
            register(name, function, ["VARCHAR"], "VARCHAR", null_handling="special", side_effects=True)
        connection.execute(
            "CREATE MACRO bq_generate_embedding(spec, content) AS bq_embed_row(spec, CAST(to_json(content) AS VARCHAR))"
        )
        for macro in MACROS:
            connection.execute(f"CREATE MACRO {macro}")

    def embed(self, spec: str, content: str | None) -> dict[str, Any]:
        """Embed the content of one row.

        Args:
            spec: JSON object with model, endpoint and options, as `expand_embedding` writes it.
            content: JSON of a text, an ObjectRef, or a list of both.

        Returns:
            The columns ``embedding``, ``status`` and ``statistics``.
        """
        options = orjson.loads(spec)
        value = None if content is None else orjson.loads(content)
        key = str(value.get("uri") if isinstance(value, dict) else value)
        self._counters.add("bigquery", "ai", "rows")
        self._counters.add("bigquery", "ai", "calls_per_key", key)
        failure = self._faults.failure(options["call"], key, options["endpoint"])
        if failure is None:
            try:
                model = embedding_model(options["model"])
                assert model is not None  # noqa: S101
                description, tokens = self._describe(value, model, by_uri=options["by_uri"])
            except ApiError as problem:
                failure = f"{problem.status or STATUS_NAMES.get(problem.code, 'INVALID_ARGUMENT')}: {problem.message}"
            else:
                self._counters.add("bigquery", "ai", "answered")
                self._counters.add("bigquery", "ai", "answered_per_key", key)
                statistics = orjson.dumps({"token_count": tokens, "truncated": False}).decode()
                vector = project(description, options["dimension"], model.name)
                return {"embedding": vector, "status": "", "statistics": statistics}
        self._counters.add("bigquery", "ai", "retryable" if failure.startswith(RETRYABLE) else "permanent")
        return {"embedding": [], "status": failure, "statistics": None}

    def _describe(self, value: Any, model: EmbeddingModel, *, by_uri: bool) -> tuple[Vector, int]:
        if value is None or value == "":
            raise ApiError(400, "The content is empty.")
        if isinstance(value, list):
            described = [self._describe(item, model, by_uri=by_uri) for item in value]
            if not 1 <= sum(1 for item in value if isinstance(item, dict)) <= model.images:
                raise ApiError(400, f"{model.name} takes 1 to {model.images} images per row.")
            mean: Vector = np.sum([part / np.linalg.norm(part) for part, _ in described], axis=0)
            return mean, sum(tokens for _, tokens in described)
        if isinstance(value, str) and not by_uri:
            if count_text(value) > model.text_tokens:
                raise ApiError(400, f"The text is too long: the limit of {model.name} is {model.text_tokens} tokens.")
            return describe_text(value), count_text(value)
        uri = value
        if isinstance(value, dict):
            uri = value.get("uri")
            if value.get("authorizer"):
                self._registry.connection(self._registry.parse_connection(str(value["authorizer"])))
        return self._descriptors.from_uri(str(uri), model), _IMAGE_TOKENS

    def _details(self, uri: str | None) -> str | None:
        if uri is None:
            return None
        return orjson.dumps(self._object_tables.details(uri)).decode()

    def _version(self, uri: str | None) -> str | None:
        bucket, _, name = (uri or "").removeprefix("gs://").partition("/")
        stored = self._objects.read(bucket, name)
        return None if stored is None else str(stored.generation)

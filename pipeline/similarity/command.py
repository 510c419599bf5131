"""``imagebeam search``: find the images nearest to a text, a local picture or an image of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.pages.thumbnails import SHEET_PX, make_thumbnail
from imagebeam.pipeline.run.event_loop import run_coroutine
from imagebeam.pipeline.similarity import sql as search_sql
from imagebeam.pipeline.similarity.contact_sheet import contact_sheet
from imagebeam.pipeline.similarity.result import SearchResult
from imagebeam.pipeline.similarity.settings import SearchSettings
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.clients.embedding_client import EmbeddingClient
from imagebeam.transforms.core import images
from imagebeam.transforms.core.errors import SystemicError, UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.text import quote
from imagebeam.transforms.gemini.embeddings import (
    build_embedding_request,
    build_text_request,
    parse_embedding,
    parse_text_embedding,
)
from imagebeam.transforms.gemini.error_classes import FailureKind, classify_exception, classify_http
from imagebeam.transforms.gemini.requests import ImagePart
from imagebeam.transforms.sql.embedding_tables import is_embedding_table
from imagebeam.transforms.sql.tables import TABLES
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.embedding import MODELS, EmbedTask, embed_task, resolve_dimension

TIMEOUT_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """A table of embeddings.

    Attributes:
        table: The table.
        model: Model of its vectors.
        dimension: Length of its vectors.
    """

    table: TableName
    model: str
    dimension: int

    @property
    def flags(self) -> str:
        """The flags that select this table."""
        return f"--model={self.model} --dimension={self.dimension}"


def run(settings: SearchSettings, show: Callable[[SearchResult], None] = lambda _: None) -> SearchResult:
    """Search, and write the nearest images to a table and a contact sheet if requested.

    Args:
        settings: The search.
        show: Receives the result before the contact sheet is written.

    Raises:
        UserError: A flag is invalid, or there is no matching table of embeddings.
        SystemicError: BigQuery or Vertex AI cannot be used.
    """
    console = Console()
    find_credentials()
    if settings.html is not None and settings.html.exists() and not settings.force:
        raise UserError(f"--html: {settings.html} already exists; use another name, or add --force")
    if settings.html is not None and not settings.html.parent.is_dir():
        raise UserError(f"--html: directory {settings.html.parent} does not exist")
    bq = BigQueryClient(settings.project)
    location = bq.get_dataset_location(*settings.results_dataset)
    if location is None:
        raise UserError(f"--results: dataset {settings.results} does not exist, or you cannot access it")
    tables = list_tables(bq, settings.results_dataset, location)
    selected = select_table(tables, settings)
    out = _resolve_out_table(settings, bq)
    picture = None if settings.image is None else _read_picture(settings.image)
    vector = _query_vector(settings, selected, tables, bq, location, picture)
    query = search_sql.search_query(selected.table, vector, settings.top_k, where=settings.where, without=settings.like)
    if out is not None:
        bq.query_rows(search_sql.save_query(query, out, replace=settings.force), location=location)
        rows = bq.query_rows(search_sql.saved_query(out), location=location)
    else:
        rows = sorted(bq.query_rows(query, location=location), key=lambda row: int(row["rank"]))
    result = SearchResult(
        title=settings.title(),
        hits=rows,
        model=selected.model,
        dimension=selected.dimension,
        table=selected.table,
        where=settings.where,
        saved=out,
        picture=None if picture is None else picture.data,
    )
    show(result)
    console.status(f"searched {selected.table.dotted} ({selected.model}, {selected.dimension} dimensions)")
    if out is not None:
        console.status(f"saved    {out.dotted}; classify these images with imagebeam classify --source={out.dotted}")
    if settings.html is not None:
        _write_contact_sheet(settings.html, result, console, thumbnails=settings.thumbnails)
    return result


def list_tables(bq: BigQueryClient, results: tuple[str, str], location: str) -> list[EmbeddingTable]:
    """Return the tables of embeddings in a dataset that are not empty."""
    found = []
    for name in sorted(filter(is_embedding_table, bq.list_tables(*results))):
        table = TableName(*results, name)
        rows = bq.query_rows(search_sql.model_query(table), location=location)
        if rows:
            found.append(EmbeddingTable(table, str(rows[0]["model"]), int(rows[0]["dimension"])))
    return found


def select_table(tables: Sequence[EmbeddingTable], settings: SearchSettings) -> EmbeddingTable:
    """Return the table that ``--model`` and ``--dimension`` select, or the only one.

    Raises:
        UserError: No table matches, or more than one.
    """
    if settings.model in MODELS and settings.dimension is not None:
        resolve_dimension(str(settings.model), settings.dimension)
    matching = [
        table
        for table in tables
        if settings.model in (None, table.model) and settings.dimension in (None, table.dimension)
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        choices = " or ".join(f"{table.flags} ({table.table.table})" for table in matching)
        raise UserError(
            f"{settings.results} has several tables of embeddings, and vectors of different models or lengths cannot "
            f"be compared: add {choices}"
        )
    if not tables:
        raise UserError(f"{settings.results} has no embeddings yet: run imagebeam embed --results={settings.results}")
    given = " ".join(
        f"--{name}={value}" for name in ("model", "dimension") if (value := getattr(settings, name)) is not None
    )
    available = "; ".join(table.flags for table in tables)
    raise UserError(f"{settings.results} has no embeddings for {given}; available: {available}")


def _query_vector(
    settings: SearchSettings,
    selected: EmbeddingTable,
    tables: Sequence[EmbeddingTable],
    bq: BigQueryClient,
    location: str,
    picture: ImagePart | None,
) -> tuple[float, ...]:
    """Return the vector to search for: that of a unit, or a new one of the text or the picture."""
    if settings.like is not None:
        rows = bq.query_rows(search_sql.vector_query(selected.table, settings.like), location=location)
        if rows:
            return tuple(rows[0]["vector"])
        missing = f"--like: {quote(settings.like)} has no vector in {selected.table.dotted}"
        for table in tables:
            if table != selected and bq.query_rows(
                search_sql.vector_query(table.table, settings.like), location=location
            ):
                raise UserError(
                    f"{missing}, only one of another model or length, which cannot be compared: search with "
                    f"{table.flags}"
                )
        raise UserError(f"{missing}; ids are in column unit_id")
    if selected.model not in MODELS:
        raise UserError(
            f"the vectors in {selected.table.dotted} are from {selected.model}, which imagebeam cannot call for a text "
            "or a picture; search with --like=ID"
        )
    task = embed_task(selected.model, selected.dimension)
    if picture is not None:
        what, parse, body = "the picture", parse_embedding, build_embedding_request(task, [picture])
    else:
        text = " ".join(str(settings.text).split())
        what, parse, body = "the text", parse_text_embedding, build_text_request(task, text)
    locations = catalog.load_models_file(None).embedding(task.model).locations
    model_location = settings.location or locations[0].replace("regions", "us-central1")
    answer = parse(run_coroutine(_call(settings.project, model_location, task, body, what)), task)
    if answer.vector is None:
        raise SystemicError(f"embedding {what} with {task.model}: {answer.reason}: {answer.message}")
    return tuple(answer.vector)


async def _call(project: str, location: str, task: EmbedTask, body: Mapping[str, Any], what: str) -> Any:
    """Call the embedding model once; return its answer as a JSON document."""
    client = EmbeddingClient(project, location)
    try:
        answer = await client.send(task.model, body, headers={}, timeout_s=TIMEOUT_S)
    except Exception as error:
        failure = classify_exception(error)
        raise SystemicError(f"embedding {what} with {task.model}: {failure.reason}: {failure.message}") from None
    finally:
        await client.close()
    if answer.code == 200:
        return orjson.loads(answer.body)
    failure = classify_http(answer.code, answer.body, answer.headers)
    if answer.code == 404:
        raise UserError(f"unknown model {task.model} at location {location}: {failure.message}; set --location")
    if failure.kind is FailureKind.UNIT or answer.code == 400:
        raise UserError(f"{task.model} rejects {what}: {failure.message}")
    raise SystemicError(f"embedding {what} with {task.model}: {failure.reason}: {failure.message}")


def _read_picture(path: Path) -> ImagePart:
    try:
        prepared = images.prepare(path.read_bytes(), crop=None, padding=0, max_side=1024, quality=90)
    except OSError as error:
        raise UserError(f"--image={path}: {error.strerror}") from None
    except images.ImageError as problem:
        raise UserError(f"--image={path}: {problem}") from None
    return ImagePart(prepared.mime_type, data=prepared.data)


def _resolve_out_table(settings: SearchSettings, bq: BigQueryClient) -> TableName | None:
    if settings.out_table is None:
        return None
    table = TableName.parse(settings.out_table, settings.project)
    if table.table in TABLES or is_embedding_table(table.table) or table.table.startswith("_"):
        raise UserError(f"--out_table={table.dotted} is a table that imagebeam maintains; use another name")
    facts = bq.get_table(table)
    if facts is not None and not (settings.force and facts.kind == "TABLE"):
        raise UserError(f"--out_table: {table.dotted} already exists; use another name, or add --force")
    return table


def _write_contact_sheet(path: Path, result: SearchResult, console: Console, *, thumbnails: bool) -> None:
    pictures = result.load_pictures(SHEET_PX) if thumbnails else None
    query = make_thumbnail(result.picture, SHEET_PX) if thumbnails and result.picture else None
    sheet = contact_sheet(result.title, result.about(), result.hits, pictures=pictures, query=query)
    try:
        path.write_text(sheet, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--html={path}: {error.strerror}") from None
    missing = sum(isinstance(picture, str) for picture in (pictures or {}).values())
    console.status(f"sheet    {path}{f', {missing} images could not be read' if missing else ''}")

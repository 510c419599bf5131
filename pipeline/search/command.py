"""``imagebeam search``: the nearest images to a text, a local picture or an image of the table."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from imagebeam.pipeline.console import report
from imagebeam.pipeline.search import sql as search_sql
from imagebeam.pipeline.search.contact_sheet import Picture, contact_sheet
from imagebeam.pipeline.search.settings import SearchSettings
from imagebeam.pipeline.search.sql import Search
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.clients.embedding_client import EmbeddingClient
from imagebeam.transforms.core import images
from imagebeam.transforms.core.errors import SystemicError, UserError
from imagebeam.transforms.core.identifiers import TableName, shown
from imagebeam.transforms.core.records import Status
from imagebeam.transforms.gemini.embedding_query import build_text_request, read_text_embedding
from imagebeam.transforms.gemini.embeddings import build_embedding_request, read_embedding
from imagebeam.transforms.gemini.error_classes import Kind, classify_exception, classify_http
from imagebeam.transforms.gemini.requests import ImagePart
from imagebeam.transforms.sql.embedding_tables import is_embedding_table
from imagebeam.transforms.sql.tables import TABLES
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.embedding import MODELS, EmbedTask, checked_dimension, embed_task

TIMEOUT_S = 60.0
THUMBNAIL_PX, THUMBNAIL_QUALITY, READERS = 320, 80, 8
_PRINTED = ("rank", "distance", "unit_id", "asset_type", "capture_time", "uri")


@dataclasses.dataclass(frozen=True, slots=True)
class Vectors:
    """A table of vectors.

    Attributes:
        table: The table.
        model: Model that made them.
        dimension: Their length.
    """

    table: TableName
    model: str
    dimension: int

    @property
    def flags(self) -> str:
        """How a person names it."""
        return f"--model={self.model} --dimension={self.dimension}"


def run(settings: SearchSettings) -> int:
    """Searches, prints what was found, keeps it and draws it.

    Returns:
        0, also when nothing was found.

    Raises:
        UserError: The search cannot be made as it was asked for; one line says why.
        SystemicError: The services cannot be used.
    """
    find_credentials()
    if settings.html is not None and settings.html.exists() and not settings.force:
        raise UserError(f"--html: {settings.html} is there already; give another name, or add --force")
    if settings.html is not None and not settings.html.parent.is_dir():
        raise UserError(f"--html: there is no directory {settings.html.parent}")
    bq = BigQueryClient(settings.project)
    location = bq.dataset_location(*settings.results)
    if location is None:
        raise UserError(f"--results: there is no dataset {'.'.join(settings.results)}, or it may not be seen")
    there = tables_of(bq, settings.results, location)
    vectors = chosen(there, settings)
    out = _out_table(settings, bq)
    picture = None if settings.image is None else _local_picture(settings.image)
    vector = _wanted(settings, vectors, there, bq, location, picture)
    search = Search(vectors.table, settings.top_k, settings.where, settings.like)
    query = search_sql.search_sql(search, vector)
    if out is not None:
        bq.small_query(search_sql.keep_sql(query, out, replace=settings.force), location=location)
        rows = bq.small_query(search_sql.kept_sql(out), location=location)
    else:
        rows = sorted(bq.small_query(query, location=location), key=lambda row: int(row["rank"]))
    _tell(settings, vectors, rows, out)
    if settings.html is not None:
        _draw(settings, vectors, rows, picture)
    return 0


def tables_of(bq: BigQueryClient, results: tuple[str, str], location: str) -> list[Vectors]:
    """The tables of vectors of a dataset that are not empty."""
    found = []
    for name in sorted(filter(is_embedding_table, bq.table_names(*results))):
        table = TableName(*results, name)
        rows = bq.small_query(search_sql.model_sql(table), location=location)
        if rows:
            found.append(Vectors(table, str(rows[0]["model"]), int(rows[0]["dimension"])))
    return found


def chosen(there: Sequence[Vectors], settings: SearchSettings) -> Vectors:
    """The table to search: the one that was named, or the only one.

    Raises:
        UserError: There is none, or more than one.
    """
    where = ".".join(settings.results)
    if settings.model in MODELS and settings.dimension is not None:
        checked_dimension(str(settings.model), settings.dimension)
    fit = [
        vectors
        for vectors in there
        if settings.model in (None, vectors.model) and settings.dimension in (None, vectors.dimension)
    ]
    if len(fit) == 1:
        return fit[0]
    listed = "; ".join(vectors.flags for vectors in there)
    if fit:
        raise UserError(
            "vectors of two models or lengths cannot be compared, so a search is over one table, and several fit: "
            f"choose {'; or '.join(vectors.flags for vectors in fit)}"
        )
    if not there:
        raise UserError(f"there are no vectors in {where} yet: make some with imagebeam embed --results={where}")
    asked = " ".join(
        f"--{name}={value}" for name in ("model", "dimension") if (value := getattr(settings, name)) is not None
    )
    raise UserError(f"there are no vectors for {asked} in {where}; there are: {listed}")


def _wanted(
    settings: SearchSettings,
    vectors: Vectors,
    there: Sequence[Vectors],
    bq: BigQueryClient,
    location: str,
    picture: ImagePart | None,
) -> tuple[float, ...]:
    """The vector that is searched for."""
    if settings.like is not None:
        rows = bq.small_query(search_sql.vector_sql(vectors.table, settings.like), location=location)
        if rows:
            return tuple(rows[0]["vector"])
        raise UserError(_unknown(settings.like, vectors, there, bq, location))
    if vectors.model not in MODELS:
        raise UserError(
            f"the vectors of {vectors.table.dotted} are of {vectors.model}, which imagebeam cannot ask about a text or "
            "a picture; search with --like=ID"
        )
    task = embed_task(vectors.model, vectors.dimension)
    place = settings.location or _usual_location(vectors.model)
    text = None if settings.text is None else " ".join(settings.text.split())
    return asyncio.run(_asked(settings.project, place, task, text, picture))


def _unknown(unit_id: str, vectors: Vectors, there: Sequence[Vectors], bq: BigQueryClient, location: str) -> str:
    others = [
        other.flags
        for other in there
        if other != vectors and bq.small_query(search_sql.vector_sql(other.table, unit_id), location=location)
    ]
    if others:
        return (
            f"--like: {shown(unit_id)} has no vector in {vectors.table.dotted}, and its others are of another model or "
            f"length, which cannot be compared: search with {others[0]}"
        )
    return f"--like: no unit {shown(unit_id)} has a vector in {vectors.table.dotted}; ids are in its column unit_id"


async def _asked(
    project: str, place: str, task: EmbedTask, text: str | None, picture: ImagePart | None
) -> tuple[float, ...]:
    """Asks the model for the vector of a text or a picture."""
    what = "the text" if text is not None else "the picture"
    body = build_text_request(task, text) if text is not None else build_embedding_request(task, [_part(picture)])
    client = EmbeddingClient(project, place)
    try:
        answer = await client.send(task.model, body, headers={}, timeout_s=TIMEOUT_S)
    except Exception as error:
        failure = classify_exception(error)
        raise SystemicError(f"asking {task.model} about {what}: {failure.reason}: {failure.message}") from None
    finally:
        await client.close()
    if answer.code != 200:
        failure = classify_http(answer.code, answer.body, answer.headers)
        if answer.code == 404:
            raise UserError(f"model {task.model} is not known at location {place}: {failure.message}; give --location")
        if failure.kind is Kind.ROW or answer.code == 400:
            raise UserError(f"{task.model} does not take {what}: {failure.message}")
        raise SystemicError(f"asking {task.model} about {what}: {failure.reason}: {failure.message}")
    document = orjson.loads(answer.body)
    reply = read_text_embedding(document, task) if text is not None else read_embedding(document, task)
    if reply.status is not Status.OK or reply.vector is None:
        raise SystemicError(f"asking {task.model} about {what}: {reply.reason}: {reply.message}")
    return tuple(reply.vector)


def _part(picture: ImagePart | None) -> ImagePart:
    assert picture is not None  # noqa: S101  (without a text there is one)
    return picture


def _usual_location(model: str) -> str:
    place = catalog.load_models_file(None).embedding(model).locations[0]
    return "us-central1" if place == "regions" else place


def _local_picture(path: Path) -> ImagePart:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"--image={path}: {error.strerror}") from None
    try:
        prepared = images.prepare(data, crop=None, padding=0, max_side=1024, quality=90)
    except images.ImageProblem as problem:
        raise UserError(f"--image={path}: {problem}") from None
    return ImagePart(prepared.mime_type, data=prepared.data)


def _out_table(settings: SearchSettings, bq: BigQueryClient) -> TableName | None:
    if settings.out_table is None:
        return None
    table = TableName.parse(settings.out_table, settings.project)
    if table.table in TABLES or is_embedding_table(table.table) or table.table.startswith("_"):
        raise UserError(f"--out_table={table.dotted} is a table of imagebeam's own; give another name")
    facts = bq.table(table)
    if facts is not None and not (settings.force and facts.kind == "TABLE"):
        raise UserError(f"--out_table: {table.dotted} is there already; give another name, or add --force")
    return table


def _tell(settings: SearchSettings, vectors: Vectors, rows: Sequence[Mapping[str, Any]], out: TableName | None) -> None:
    if settings.json:
        document = {
            "model": vectors.model,
            "dimension": vectors.dimension,
            "table": vectors.table.dotted,
            "found": rows,
        }
        sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
    else:
        printed = [{name: row[name] for name in _PRINTED} for row in rows]
        for line in report.table_rows(printed) or ["nothing was found"]:
            sys.stdout.write(line + "\n")
    sys.stderr.write(f"searched {vectors.table.dotted} ({vectors.model}, {vectors.dimension} dimensions)\n")
    if out is not None:
        sys.stderr.write(f"kept     {out.dotted}: ask about them with imagebeam classify --source={out.dotted}\n")


def _draw(
    settings: SearchSettings, vectors: Vectors, rows: Sequence[Mapping[str, Any]], picture: ImagePart | None
) -> None:
    assert settings.html is not None  # noqa: S101
    now = datetime.datetime.now(datetime.UTC)
    about = [f"{vectors.model}, {vectors.dimension} dimensions, {vectors.table.dotted}, {now:%Y-%m-%d %H:%M} UTC"]
    if settings.where is not None:
        about.append(f"where {' '.join(settings.where.split())}")
    pictures = _thumbnails(rows) if settings.thumbnails else None
    given = _thumbnail(picture.data) if settings.thumbnails and picture is not None and picture.data else None
    sheet = contact_sheet(settings.title(), about, rows, pictures=pictures, query=given)
    try:
        settings.html.write_text(sheet, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--html={settings.html}: {error.strerror}") from None
    missing = "" if pictures is None or len(pictures) == len(rows) else f", {len(rows) - len(pictures)} without picture"
    sys.stderr.write(f"sheet    {settings.html}{missing}\n")


def _thumbnails(rows: Sequence[Mapping[str, Any]]) -> dict[str, Picture]:
    """Small pictures, made here; a picture that cannot be read or shown is left out."""

    def made(row: Mapping[str, Any]) -> Picture | None:
        try:
            return _thumbnail(storage.read_image(row["uri"]))
        except images.ImageProblem:
            return None

    with ThreadPoolExecutor(READERS) as threads:
        found = zip(rows, threads.map(made, rows), strict=True)
        return {str(row["unit_id"]): picture for row, picture in found if picture is not None}


def _thumbnail(data: bytes) -> Picture:
    small = images.prepare(data, crop=None, padding=0, max_side=THUMBNAIL_PX, quality=THUMBNAIL_QUALITY)
    return Picture(small.mime_type, small.data)

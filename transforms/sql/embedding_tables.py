"""Tables of embeddings.

Each model and dimension has its own table, ``embeddings_<model>_<dimension>``: vectors of different models cannot be
compared, and a vector index needs one dimension. The tables contain only valid vectors. The outcome of each unit is in
``outcomes`` under the task ``embed/<model>/<dimension>``, as for any other task.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Outcome, Status
from imagebeam.transforms.sql.tables import ResultTable, clean_text, field, finite

#: Name of the view over all tables of vectors.
VIEW = "embeddings"

EMBEDDINGS = ResultTable(
    schema=(
        field("unit_id", "STRING", "Id of the observation.", "REQUIRED"),
        field("unit_type", "STRING", "Always observation.", "REQUIRED"),
        field("input_digest", "STRING", "SHA-256 over the ids of the observations sent.", "REQUIRED"),
        field("observation_id", "STRING", "The observation."),
        field("asset_id", "STRING", "The asset."),
        field("asset_type", "STRING", "Class of the asset."),
        field("uri", "STRING", "URI of the image."),
        field("latitude", "FLOAT64", "Degrees north."),
        field("longitude", "FLOAT64", "Degrees east."),
        field("position", "GEOGRAPHY", "Latitude and longitude as a point."),
        field("capture_time", "TIMESTAMP", "Time of capture."),
        field("map_url", "STRING", "Link to a map."),
        field("snapshot_id", "STRING", "Snapshot of the source with the image."),
        field("model", "STRING", "The model; the same in every row.", "REQUIRED"),
        field("dimension", "INT64", "Length of the vector; the same in every row.", "REQUIRED"),
        field("vector", "FLOAT64", "The embedding; all values are finite.", "REPEATED"),
        field("version", "STRING", "Version of the embedding task; see outcomes.", "REQUIRED"),
        field("run_id", "STRING", "The run.", "REQUIRED"),
        field("embedded_at", "TIMESTAMP", "Time of the outcome.", "REQUIRED"),
    ),
    clustering=("unit_id",),
    description="imagebeam: vectors of one model and dimension. Append-only; read it through the view embeddings.",
)
#: Columns of a table of vectors, in order.
COLUMNS = tuple(str(column["name"]) for column in EMBEDDINGS.schema)
_TABLE = re.compile(r"embeddings_\w+_\d+")


def embedding_table(results: TableName, model: str, dimension: int) -> TableName:
    """Return the table of the vectors of a model and dimension.

    Args:
        results: Any table of the results dataset, such as ``outcomes``.
        model: Model id.
        dimension: Length of the vectors.

    >>> embedding_table(TableName("my-project", "answers", "outcomes"), "multimodalembedding@001", 512).dotted
    'my-project.answers.embeddings_multimodalembedding_001_512'
    """
    safe = re.sub(r"[^A-Za-z0-9]+", "_", model).strip("_").lower()
    return dataclasses.replace(results, table=f"embeddings_{safe}_{int(dimension)}")


def is_embedding_table(name: str) -> bool:
    """Return True if the name is that of a table of vectors."""
    return _TABLE.fullmatch(name) is not None


def embedding_row(outcome: Outcome, *, model: str, dimension: int, version: str, run_id: str) -> dict[str, Any]:
    """Return the row of a vector for a streaming insert.

    Raises:
        ValueError: The outcome is not OK, or has no vector of this dimension.
    """
    unit, vector = outcome.unit, outcome.answer.vector
    if outcome.status is not Status.OK or vector is None or len(vector) != dimension:
        raise ValueError(f"unit {unit.unit_id} has no vector with {dimension} dimensions")
    image = unit.images[-1]
    latitude, longitude = finite(unit.latitude), finite(unit.longitude)
    return {
        "unit_id": clean_text(unit.unit_id),
        "unit_type": unit.unit_type,
        "input_digest": unit.input_digest,
        "observation_id": clean_text(image.observation_id),
        "asset_id": clean_text(unit.asset_id),
        "asset_type": clean_text(unit.asset_type),
        "uri": clean_text(image.uri),
        "latitude": latitude,
        "longitude": longitude,
        "position": point(latitude, longitude),
        "capture_time": unit.capture_time,
        "map_url": clean_text(unit.map_url),
        "snapshot_id": clean_text(unit.snapshot_id),
        "model": model,
        "dimension": dimension,
        "vector": list(vector),
        "version": version,
        "run_id": run_id,
        "embedded_at": outcome.answered_at,
    }


def point(latitude: float | None, longitude: float | None) -> str | None:
    """Return the text of a GEOGRAPHY point; None for an invalid position.

    >>> point(46.948, 7.447), point(91.0, 0.0), point(None, 7.0)
    ('POINT(7.447 46.948)', None, None)
    """
    if latitude is None or longitude is None or not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    return f"POINT({longitude!r} {latitude!r})"


def embeddings_view(tables: Sequence[TableName]) -> str:
    """Return the view over all tables of vectors: the newest vector of each unit, model and dimension.

    Args:
        tables: At least one table.

    Raises:
        ValueError: There are no tables.
    """
    if not tables:
        raise ValueError("no tables for the view")
    names = ", ".join(COLUMNS)
    newest = "QUALIFY ROW_NUMBER() OVER (PARTITION BY unit_id ORDER BY embedded_at DESC, version, run_id) = 1"
    return "\nUNION ALL\n".join(
        f"(SELECT {names}\nFROM {table.sql()}\nWHERE TRUE\n{newest})"
        for table in sorted(tables, key=lambda table: table.dotted)
    )


def vector_index_sql(table: TableName) -> str:
    """Return the statement that creates the vector index of a table if it does not exist.

    BigQuery fills the index asynchronously. It leaves it empty while the table is smaller than 10 MB.
    """
    return (
        f"CREATE VECTOR INDEX IF NOT EXISTS `{table.table}_index`\nON {table.sql()}(vector)\n"
        "STORING (unit_id, asset_id, asset_type, capture_time, uri)\n"
        "OPTIONS (index_type = 'IVF', distance_type = 'COSINE')"
    )

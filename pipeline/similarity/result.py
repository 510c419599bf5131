"""The result of a search."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from imagebeam.pipeline.console.console import Console, format_table
from imagebeam.pipeline.pages.cards import render_fragment
from imagebeam.pipeline.pages.thumbnails import NOTEBOOK_PX, load_thumbnails, make_thumbnail
from imagebeam.pipeline.results.frames import frame_of
from imagebeam.pipeline.similarity.contact_sheet import sheet_parts
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.images import PreparedImage

if TYPE_CHECKING:
    import pandas

_PRINTED: Final = ("rank", "distance", "unit_id", "asset_type", "capture_time", "uri")
#: Hits that a notebook shows with their images.
SHOWN_HITS: Final = 12
#: Columns of a hit with their BigQuery types.
TYPES: Final[Mapping[str, str]] = {
    "rank": "INT64",
    "distance": "FLOAT64",
    **dict.fromkeys(("unit_id", "observation_id", "uri", "asset_id", "asset_type"), "STRING"),
    "capture_time": "TIMESTAMP",
    "latitude": "FLOAT64",
    "longitude": "FLOAT64",
    "map_url": "STRING",
    "snapshot_id": "STRING",
}


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The images nearest to what was searched for. A notebook shows them as a contact sheet with thumbnails.

    Attributes:
        title: What was searched for.
        hits: Rows, nearest first: ``rank`` from 1, ``distance`` (cosine, 0 to 2), ``unit_id``, ``uri`` and the other
            columns that describe the image.
        model: Model of the vectors.
        dimension: Length of the vectors.
        table: Table of the vectors.
        where: The condition; None for none.
        saved: Table with the result, for ``out_table``; None without.
        picture: Bytes of the picture that was searched for; None for a text or a unit.
        searched_at: When.
    """

    title: str
    hits: Sequence[Mapping[str, Any]]
    model: str
    dimension: int
    table: TableName
    where: str | None = None
    saved: TableName | None = None
    picture: bytes | None = None
    searched_at: datetime.datetime = dataclasses.field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the hits as a data frame, one row each, nearest first.

        Raises:
            UserError: pandas is not installed: ``pip install 'imagebeam[pandas]'``.
        """
        return frame_of(self.hits, TYPES)

    def about(self) -> list[str]:
        """Return lines about the search, for a contact sheet."""
        when = f"{self.searched_at:%Y-%m-%d %H:%M} UTC"
        lines = [f"{self.model}, {self.dimension} dimensions, {self.table.dotted}, {when}"]
        return lines if self.where is None else [*lines, f"where {' '.join(self.where.split())}"]

    def load_pictures(self, pixels: int, number: int | None = None) -> dict[str, PreparedImage | str]:
        """Return thumbnails of the first hits by ``unit_id``, or why there is none; read on this machine."""
        hits = self.hits[:number]
        found = load_thumbnails([row["uri"] for row in hits], pixels)
        return {str(row["unit_id"]): picture for row, picture in zip(hits, found, strict=True)}

    def __str__(self) -> str:
        if not self.hits:
            return "no results"
        return "\n".join(format_table(_PRINTED, ([row[name] for name in _PRINTED] for row in self.hits)))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a contact sheet of the first hits."""
        return self._html

    @cached_property
    def _html(self) -> str:
        more = len(self.hits) - SHOWN_HITS
        about = [*self.about(), *([f"{more:,} more"] if more > 0 else [])]
        pictures = self.load_pictures(NOTEBOOK_PX, SHOWN_HITS)
        query = None if self.picture is None else make_thumbnail(self.picture, NOTEBOOK_PX)
        return render_fragment(*sheet_parts(self.title, about, self.hits[:SHOWN_HITS], pictures=pictures, query=query))


def print_hits(result: SearchResult, *, as_json: bool) -> None:
    """Print the hits as the command does: a table, or a JSON document."""
    console = Console()
    if as_json:
        console.print_json({
            "model": result.model,
            "dimension": result.dimension,
            "table": result.table.dotted,
            "found": result.hits,
        })  # fmt: skip
    elif result.hits:
        console.print_records([{name: row[name] for name in _PRINTED} for row in result.hits])
    else:
        console.print("no results")

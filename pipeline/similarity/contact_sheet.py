"""Render a search result as a contact sheet: one self-contained HTML file that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from imagebeam.pipeline.pages.cards import Card, escape, render_cards, render_document, render_image
from imagebeam.transforms.core.images import PreparedImage

_SHOWN = ("unit_id", "asset_id", "asset_type", "capture_time", "uri")


def contact_sheet(
    title: str,
    about: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    *,
    pictures: Mapping[str, PreparedImage | str] | None = None,
    query: PreparedImage | None = None,
) -> str:
    """Return the sheet as an HTML document.

    Args:
        title: What was searched for.
        about: Lines about the search.
        found: Result rows, nearest first; columns as in :data:`imagebeam.pipeline.similarity.sql.FOUND`, and ``rank``
            and ``distance``.
        pictures: Thumbnails by ``unit_id``, or why there is none; None for a sheet without images.
        query: Thumbnail of the picture that was searched for.

    Raises:
        ValueError: A picture has a type that browsers could run, such as SVG.
    """
    return render_document(title, *sheet_parts(title, about, found, pictures=pictures, query=query))


def sheet_parts(
    title: str,
    about: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    *,
    pictures: Mapping[str, PreparedImage | str] | None = None,
    query: PreparedImage | None = None,
) -> list[str]:
    """Return the parts of the sheet; see :func:`contact_sheet`."""
    parts = [f"<h1>{escape(title)}</h1>", *(f'<p class="about">{escape(line)}</p>' for line in about)]
    if query is not None:
        parts.append(f"<p>{render_image(query, 'what was searched for', style='query')}</p>")
    if not found:
        parts.append("<p>No results.</p>")
    return [*parts, render_cards(_card(row, pictures) for row in found)]


def _card(row: Mapping[str, Any], pictures: Mapping[str, PreparedImage | str] | None) -> Card:
    unit_id, distance = str(row["unit_id"]), row.get("distance")
    near = f"{distance:.4f}" if isinstance(distance, float) and math.isfinite(distance) else "unknown"
    return Card(
        title=str(row.get("rank")),
        fields={name: row.get(name) for name in _SHOWN},
        picture=None if pictures is None else pictures.get(unit_id, "no image"),
        note=f"distance {near}",
        link=str(row.get("map_url") or ""),
        name=unit_id,
    )

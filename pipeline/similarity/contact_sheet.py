"""Render a search result as a contact sheet: one self-contained HTML file that loads nothing."""

from __future__ import annotations

import base64
import html
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from imagebeam.transforms.core.images import PreparedImage

#: Image types that browsers show and cannot run.
_MIME_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})
_SHOWN = ("unit_id", "asset_id", "asset_type", "capture_time", "uri")
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { margin: .2rem 0; overflow-wrap: anywhere; }
.about, dt { opacity: .7; }
ol { list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
li { border: 1px solid #8886; border-radius: .5rem; overflow: hidden; padding: 0 .8rem .8rem; }
li img, .none { display: block; width: calc(100% + 1.6rem); margin: 0 -.8rem; aspect-ratio: 4 / 3; }
li img { object-fit: contain; background: #8882; }
.none { display: grid; place-content: center; opacity: .6; background: #8882; }
.query { max-width: 20rem; border-radius: .5rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; margin: .5rem 0; font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def contact_sheet(
    title: str,
    about: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    *,
    pictures: Mapping[str, PreparedImage] | None = None,
    query: PreparedImage | None = None,
) -> str:
    """Return the sheet as HTML.

    Args:
        title: What was searched for.
        about: Lines about the search.
        found: Result rows, nearest first; columns as in :data:`imagebeam.pipeline.similarity.sql.FOUND`, and ``rank``
            and ``distance``.
        pictures: Thumbnails by ``unit_id``; None for a sheet without images.
        query: Thumbnail of the picture that was searched for.

    Raises:
        ValueError: A picture has a type that browsers could run, such as SVG.
    """
    cards = "\n".join(_card(row, pictures) for row in found)
    lines = "\n".join(f'<p class="about">{_text(line)}</p>' for line in about)
    shown = "" if query is None else f'<p><img class="query" alt="what was searched for" src="{_source(query)}"></p>\n'
    nothing = "" if found else "<p>No results.</p>\n"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n"
        f"{lines}\n{shown}{nothing}<ol>\n{cards}\n</ol>\n</body>\n</html>\n"
    )


def _card(row: Mapping[str, Any], pictures: Mapping[str, PreparedImage] | None) -> str:
    picture = ""
    if pictures is not None:
        thumbnail = pictures.get(str(row["unit_id"]))
        picture = (
            '<span class="none">no image</span>\n'
            if thumbnail is None
            else f'<img alt="{_text(row["unit_id"])}" src="{_source(thumbnail)}">\n'
        )
    fields = "".join(f"<dt>{name}</dt><dd>{_text(row[name])}</dd>" for name in _SHOWN if row.get(name) is not None)
    link = _link(row.get("map_url"))
    opened = "" if link is None else f'<a href="{link}" rel="noopener noreferrer">map</a>'
    distance = row.get("distance")
    near = f"{distance:.4f}" if isinstance(distance, float) and math.isfinite(distance) else "unknown"
    return (
        f"<li>\n{picture}<p><strong>{_text(row.get('rank'))}</strong> distance {near} {opened}</p>\n"
        f"<dl>{fields}</dl>\n</li>"
    )


def _link(url: Any) -> str | None:
    """Return an escaped web address; None for any other URL, such as ``javascript:``."""
    try:
        parts = urllib.parse.urlsplit(str(url or ""))
    except ValueError:
        return None
    return _text(url) if parts.scheme in ("http", "https") and parts.netloc else None


def _source(picture: PreparedImage) -> str:
    if picture.mime_type not in _MIME_TYPES:
        raise ValueError(f"{picture.mime_type} is not allowed in a contact sheet")
    return f"data:{picture.mime_type};base64,{base64.b64encode(picture.data).decode('ascii')}"


def _text(value: Any) -> str:
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return html.escape(text, quote=True)

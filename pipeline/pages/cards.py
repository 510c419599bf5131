"""A grid of images with their values, as HTML that loads nothing and cannot run a script."""

from __future__ import annotations

import base64
import dataclasses
import html
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from imagebeam.transforms.core.images import PreparedImage

#: Image types that browsers show and cannot run.
MIME_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})
#: Rules for the class ``imagebeam`` only, so that they leave the rest of a notebook as it is.
STYLE: Final = """
.imagebeam { font: 14px/1.45 system-ui, sans-serif; max-width: 78rem; }
.imagebeam h1 { font-size: 1.25rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.imagebeam p { margin: .2rem 0; overflow-wrap: anywhere; }
.imagebeam .about, .imagebeam dt { opacity: .65; }
.imagebeam ol { list-style: none; margin: .9rem 0 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
.imagebeam li { border: 1px solid #8886; border-radius: .5rem; overflow: hidden; margin: 0; padding: 0 .8rem .8rem; }
.imagebeam li img, .imagebeam .none { display: block; width: calc(100% + 1.6rem); max-width: none;
  margin: 0 -.8rem .6rem; aspect-ratio: 4 / 3; background: #8882; }
.imagebeam li img { object-fit: contain; }
.imagebeam .none { display: grid; place-content: center; padding: 0 1rem; box-sizing: border-box;
  text-align: center; opacity: .7; overflow-wrap: anywhere; }
.imagebeam .query { max-width: 20rem; border-radius: .5rem; }
.imagebeam dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; margin: .5rem 0 0; font-size: .8rem; }
.imagebeam dt, .imagebeam dd { margin: 0; padding: 0; font-weight: normal; overflow-wrap: anywhere; }
.imagebeam dt { overflow-wrap: normal; }
.imagebeam pre { font-size: .8rem; white-space: pre-wrap; margin: .4rem 0; }
.imagebeam table { border-collapse: collapse; margin: .6rem 0; font-size: .85rem; }
.imagebeam td, .imagebeam th { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #8883; }
.imagebeam td.number, .imagebeam th.number { text-align: right; font-variant-numeric: tabular-nums; }
"""
_NUMBER: Final = ' class="number"'


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """An image with its values.

    Attributes:
        title: First words, in bold.
        fields: Values by name; those that are None are left out.
        picture: Thumbnail; text for why there is none; None for a card without a place for it.
        note: Text after the title.
        link: Address of a map; other addresses than ``http`` and ``https`` are left out.
        name: Alternative text of the picture.
    """

    title: str
    fields: Mapping[str, Any]
    picture: PreparedImage | str | None = None
    note: str = ""
    link: str | None = None
    name: str = ""


def render_cards(cards: Iterable[Card]) -> str:
    """Return the grid.

    Raises:
        ValueError: A picture has a type that browsers could run, such as SVG.
    """
    return "<ol>\n" + "\n".join(map(_render_card, cards)) + "\n</ol>"


def render_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; columns of numbers are aligned on the right, and None is shown as ``-``."""
    cells = [list(row) for row in rows]
    columns = zip(*cells, strict=True) if cells else [()] * len(header)
    numeric = [bool(values) and all(isinstance(value, int | float) for value in values) for values in columns]

    def line(tag: str, values: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{_NUMBER if right else ''}>{escape('-' if value is None else _number(value))}</{tag}>"
            for value, right in zip(values, numeric, strict=True)
        )

    head = f"<thead><tr>{line('th', header)}</tr></thead>" if any(header) else ""
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in cells)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def render_fragment(*parts: str) -> str:
    """Return parts of HTML with their style, for a notebook."""
    return f'<div class="imagebeam"><style>{STYLE}</style>\n' + "\n".join(parts) + "\n</div>"


def render_document(title: str, *parts: str) -> str:
    """Return parts of HTML as a document that loads nothing."""
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>:root {{ color-scheme: light dark; }}\n"
        f"body {{ margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }}{STYLE}</style>\n</head>\n"
        f'<body class="imagebeam">\n{body}\n</body>\n</html>\n'
    )


def render_image(picture: PreparedImage, name: str, *, style: str = "") -> str:
    """Return a picture as an element that contains its bytes.

    Raises:
        ValueError: The picture has a type that browsers could run, such as SVG.
    """
    if picture.mime_type not in MIME_TYPES:
        raise ValueError(f"{picture.mime_type} is not allowed in a page")
    named = f' class="{style}"' if style else ""
    data = base64.b64encode(picture.data).decode("ascii")
    return f'<img{named} alt="{escape(name)}" src="data:{picture.mime_type};base64,{data}">'


def escape(value: object) -> str:
    """Return a value as text that is safe in HTML; characters that cannot be printed become spaces."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return html.escape(text, quote=True)


def escape_lines(lines: Iterable[str]) -> str:
    """Return text that is safe in HTML, with its line breaks."""
    return "\n".join(escape(part) for line in lines for part in line.splitlines() or [""])


def _render_card(card: Card) -> str:
    picture = ""
    if isinstance(card.picture, PreparedImage):
        picture = render_image(card.picture, card.name) + "\n"
    elif card.picture is not None:
        picture = f'<span class="none">{escape(card.picture)}</span>\n'
    fields = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in card.fields.items() if value is not None
    )
    link = _link(card.link)
    words = [f"<strong>{escape(card.title)}</strong>", escape(card.note)]
    words.append("" if link is None else f'<a href="{link}" rel="noopener noreferrer">map</a>')
    return f"<li>\n{picture}<p>{' '.join(word for word in words if word)}</p>\n<dl>{fields}</dl>\n</li>"


def _link(url: str | None) -> str | None:
    """Return an escaped web address; None for any other URL, such as ``javascript:``."""
    try:
        parts = urllib.parse.urlsplit(url or "")
    except ValueError:
        return None
    return escape(url) if parts.scheme in ("http", "https") and parts.netloc else None


def _number(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value

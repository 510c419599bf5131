"""The settings of ``imagebeam search``, typed and checked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagebeam.pipeline.flags.classify import RESULTS
from imagebeam.pipeline.flags.layers import read_flags
from imagebeam.pipeline.flags.search import SEARCH
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import check_expression

#: What can be searched for: exactly one of these.
WANTED = ("text", "image", "like")


@dataclasses.dataclass(frozen=True, slots=True)
class SearchSettings:
    """What ``imagebeam search`` was told.

    Attributes:
        project: Project that runs and pays.
        results: Project and dataset of the vectors.
        text: What to look for, in words.
        image: A local picture that others are to be like.
        like: Unit that others are to be like.
        where: GoogleSQL condition on the table of vectors.
        top_k: So many of the nearest.
        model: Model of the vectors; None for the only one there is.
        dimension: Their length; None for the only one there is.
        location: Vertex AI location of the model; None for its usual one.
        out_table: Table to keep what was found in.
        force: Overwrite ``out_table`` and ``html``.
        html: File for the contact sheet.
        thumbnails: Put small pictures into it.
        json: Print what was found as JSON.
    """

    project: str
    results: tuple[str, str]
    text: str | None = None
    image: Path | None = None
    like: str | None = None
    where: str | None = None
    top_k: int = 20
    model: str | None = None
    dimension: int | None = None
    location: str | None = None
    out_table: str | None = None
    force: bool = False
    html: Path | None = None
    thumbnails: bool = False
    json: bool = False

    def title(self) -> str:
        """What is searched for, in words."""
        if self.text is not None:
            return f"images that show: {self.text}"
        return f"images like {self.image.name if self.image else self.like}"


def search_settings(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> SearchSettings:
    """The settings of ``imagebeam search``.

    Args:
        argv: Arguments after ``search``.
        cwd: Directory that relative paths start from; ``imagebeam.yaml`` is looked for here.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the project when nothing else says one.

    Raises:
        UserError: Unknown flag, bad value, contradiction, missing file.
    """
    values = read_flags(argv, SEARCH, command="imagebeam search", cwd=cwd, environ=environ, beam=False).values
    _check(values)
    names = {field.name for field in dataclasses.fields(SearchSettings)}
    plain = {name: value for name, value in values.items() if name in names}
    for name in ("image", "html"):
        plain[name] = None if values[name] is None else cwd / Path(values[name]).expanduser()
    return SearchSettings(**{**plain, "results": _dataset(values["results"], values["project"])})


def _check(values: Mapping[str, Any]) -> None:
    if values["project"] is None:
        raise UserError("no project: give --project=PROJECT, or export GOOGLE_CLOUD_PROJECT")
    if values["results"] is None:
        raise UserError("no results: give --results=DATASET, where the vectors are, or write it into imagebeam.yaml")
    wanted = [name for name in WANTED if values[name] is not None]
    if len(wanted) != 1:
        said = f"{' and '.join(f'--{name}' for name in wanted)} are given" if wanted else "nothing is given"
        raise UserError(f"{said}, but a search is for one thing: --text='a dark street', --image=FILE or --like=ID")
    if "," in (values["model"] or ""):
        raise UserError(
            f"--model={values['model']}: vectors of two models cannot be compared, so a search is over one model; "
            "search twice"
        )
    if values["where"] is not None:
        check_expression(values["where"], source="--where")
    if values["thumbnails"] and values["html"] is None:
        raise UserError("--thumbnails are pictures in the contact sheet: give --html=FILE too")


def _dataset(text: str, project: str) -> tuple[str, str]:
    found = re.fullmatch(RESULTS.pattern or "", text)
    assert found is not None  # noqa: S101  (the flag has checked it)
    return found["project"] or project, found["dataset"]

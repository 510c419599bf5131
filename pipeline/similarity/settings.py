"""The settings of ``imagebeam search``, typed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

import pydantic

from imagebeam.pipeline.flags.execution import ConfigSettings, ForceSettings, JsonSettings
from imagebeam.pipeline.flags.inputs import DATASET, TABLE, TABLE_FORM, DatasetSettings
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.pipeline.run.settings import merge_layers, qualified_name, resolve_project
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import check_expression

#: What to search for: exactly one of these.
WANTED: Final = ("text", "image", "like")


# fmt: off
class SearchFlags(Settings, group=Group.SEARCH, in_file=False):
    """The search and its output."""

    text: Annotated[str | None, Setting(
        "Find images that show what this text describes.", metavar="TEXT", example="a dark street")] = None
    image: Annotated[Path | None, Setting(
        "Find images that look like this local picture.", metavar="FILE", example="pole.jpg")] = None
    like: Annotated[str | None, Setting(
        "Find images that look like the image of this unit.",
        metavar="UNIT_ID", example="o1:0123:00250082")] = None
    where: Annotated[str | None, Setting(
        "Search only rows that match this GoogleSQL condition on the columns of the embeddings table.",
        metavar="SQL", example="asset_type = 'ASSET_CLASS_UTILITY_POLE'")] = None
    top_k: Annotated[int, Setting("Return the N nearest images.", minimum=1, maximum=4_999, example="100")] = 20
    model: Annotated[str | None, Setting(
        "Model of the embeddings. Needed only if there are several tables of embeddings.",
        metavar="MODEL", example="gemini-embedding-2")] = None
    dimension: Annotated[int | None, Setting(
        "Length of the embeddings. Needed only if there are several tables of embeddings.",
        minimum=1, example="768")] = None
    location: Annotated[str | None, Setting(
        "Vertex AI location of the model that embeds the text or picture.",
        metavar="LOCATION", pattern=r"[a-z]+(?:-[a-z]+[0-9]+)?", form="global, us, eu or a region",
        example="us-central1", computed="a location that has the model")] = None
    out_table: Annotated[str | None, Setting(
        "Save the result in this table, which can be the --source of imagebeam classify.",
        metavar="TABLE", pattern=TABLE, form=TABLE_FORM, example="my_dataset.dark_streets",
        group=Group.RESULTS)] = None
    html: Annotated[Path | None, Setting(
        "Write a contact sheet of the result to this file.",
        metavar="FILE", example="found.html", group=Group.RESULTS)] = None
    thumbnails: Annotated[bool, Setting(
        "Include thumbnails in the contact sheet.", example="true", group=Group.RESULTS)] = False
# fmt: on


class SearchSettings(ConfigSettings, JsonSettings, ForceSettings, DatasetSettings, SearchFlags):
    """Settings of ``imagebeam search``."""

    # fmt: off
    results: Annotated[str, Setting(
        "BigQuery dataset with the embeddings.",
        metavar="DATASET", pattern=DATASET, form="dataset or project.dataset", example="image_answers")]
    # fmt: on

    def title(self) -> str:
        """Return a description of what is searched for."""
        if self.text is not None:
            return f"images that show: {self.text}"
        return f"images like {self.image.name if self.image else self.like}"

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        wanted = [name for name in WANTED if getattr(self, name) is not None]
        if len(wanted) != 1:
            given = f"{' and '.join(f'--{name}' for name in wanted)} are given" if wanted else "nothing is given"
            raise UserError(
                f"{given}, but a search needs exactly one of --text='a dark street', --image=FILE or --like=ID"
            )
        if "," in (self.model or ""):
            raise UserError(
                f"--model={self.model}: vectors of two models cannot be compared, so a search is over one model; "
                "search twice"
            )
        if self.where is not None:
            check_expression(self.where, source="--where")
        if self.thumbnails and self.html is None:
            raise UserError("--thumbnails are part of the contact sheet: set --html=FILE too")
        return self


#: Settings of ``imagebeam search``.
SEARCH: Final[Flags] = flags_of(SearchSettings)


def load_search(line: FlagValues, *, cwd: Path, environ: Mapping[str, str]) -> SearchSettings:
    """Return the settings of ``imagebeam search``.

    Args:
        line: The command line.
        cwd: Directory that relative paths start from and that may contain ``imagebeam.yaml``.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the default project.

    Raises:
        UserError: Invalid value, contradiction, missing file.
    """
    found = merge_layers(line, SEARCH, cwd=cwd)
    values, project = dict(found.given), resolve_project(found, environ)
    if "results" not in values:
        raise UserError("no dataset: set --results=DATASET, the dataset with the embeddings, here or in imagebeam.yaml")
    values |= {name: cwd / Path(values[name]).expanduser() for name in ("image", "html") if name in values}
    return SearchSettings(**{
        **values, "project": project, "results": qualified_name(DATASET, values["results"], project),
    })  # fmt: skip

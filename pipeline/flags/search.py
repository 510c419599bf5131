"""The flags of ``imagebeam search``, as :mod:`imagebeam.pipeline.flags.classify` has those of the runs."""

from typing import Final

from imagebeam.pipeline.flags.classify import CONFIG, FORCE, JSON, PROJECT, RESULTS, SOURCE, Flag, Group, Kind

# fmt: off
TEXT = Flag(
    "text", Kind.TEXT, "What to look for, in words.", Group.FIND, example="a dark street", in_file=False,
)
IMAGE = Flag(
    "image", Kind.TEXT, "A local picture: find what looks like it.", Group.FIND, example="pole.jpg", in_file=False,
)
LIKE = Flag(
    "like", Kind.TEXT, "The unit_id of an image of the table: find what looks like it.",
    Group.FIND, example="o1:0123:00250082", in_file=False,
)
SEARCH_WHERE = Flag(
    "where", Kind.TEXT, "A GoogleSQL condition on the table of the vectors.",
    Group.FIND, example="asset_type = 'ASSET_CLASS_UTILITY_POLE'", in_file=False,
)
TOP_K = Flag(
    "top_k", Kind.INTEGER, "So many of the nearest.", Group.FIND, default=20, minimum=1, maximum=4_999, example="100",
    in_file=False,
)
SEARCH_MODEL = Flag(
    "model", Kind.TEXT, "Model of the vectors. Not needed where there is one table of vectors.",
    Group.FIND, example="gemini-embedding-2", in_file=False,
)
SEARCH_DIMENSION = Flag(
    "dimension", Kind.INTEGER, "Length of the vectors. Not needed where there is one table of vectors.",
    Group.FIND, minimum=1, example="768", in_file=False,
)
SEARCH_LOCATION = Flag(
    "location", Kind.TEXT, "Vertex AI location of the model, which makes the vector of a text or picture.",
    Group.FIND, pattern=r"[a-z]+(?:-[a-z]+[0-9]+)?", form="global, us, eu or a region", example="us-central1",
    in_file=False,
)
OUT_TABLE = Flag(
    "out_table", Kind.TEXT, "Keep what was found in this table, as a source for imagebeam classify.",
    Group.RESULTS, pattern=SOURCE.pattern, form=SOURCE.form,
    example="my_dataset.dark_streets", in_file=False,
)
HTML = Flag(
    "html", Kind.TEXT, "Write a contact sheet of what was found into this file.",
    Group.RESULTS, example="found.html", in_file=False,
)
THUMBNAILS = Flag(
    "thumbnails", Kind.BOOLEAN, "Put small pictures into the sheet, made here; without it there are none.",
    Group.RESULTS, default=False, example="true", in_file=False,
)

#: Flags of ``imagebeam search``, in the order of ``--help``.
SEARCH: Final[tuple[Flag, ...]] = (
    TEXT, IMAGE, LIKE, SEARCH_WHERE, TOP_K, SEARCH_MODEL, SEARCH_DIMENSION, SEARCH_LOCATION,
    PROJECT, RESULTS, OUT_TABLE, HTML, THUMBNAILS, FORCE, JSON, CONFIG,
)
# fmt: on

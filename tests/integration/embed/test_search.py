"""``imagebeam search``: results, saved tables, contact sheets, and one-line errors."""

import dataclasses
import html.parser
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
import pytest
from google.cloud import bigquery
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import Job, make_job, run_cli

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.images import Picture as View
from imagebeam.emulators.sample_data.images import photos, render
from imagebeam.pipeline.similarity.contact_sheet import contact_sheet
from imagebeam.transforms.core.images import PreparedImage
from imagebeam.transforms.core.records import Status
from imagebeam.transforms.gemini.embeddings import build_text_request, parse_text_embedding
from imagebeam.transforms.tasks.embedding import MODELS, embed_task

VIEWS = 6
DARK = 4
TABLE = "embeddings_multimodalembedding_001_256"

Found = list[dict[str, Any]]


def view(photo: str, number: int, variant: str = "plain") -> bytes:
    return render(View(photo, (6 * number, 5 * number, 180 + 6 * number, 140 + 5 * number), (180, 140), variant))


@dataclasses.dataclass(frozen=True)
class Lab:
    """A dataset with vectors of views of every photograph, some of them dark."""

    job: Job

    def arguments(self, *more: str) -> list[str]:
        return ["search", f"--results={self.job.results}", *more]

    def find(self, *more: str) -> Found:
        code, out, err = run_cli(self.arguments("--json", *more))
        assert code == 0, err
        found: Found = json.loads(out)["found"]
        return found

    def fail(self, *more: str) -> str:
        """Run a search that must fail; give its error line."""
        code, out, err = run_cli(self.arguments(*more))
        assert (code, out) == (2, ""), err
        assert len(err.splitlines()) == 1, err
        return err


def embed(job: Job, model: str, dimension: int, *more: str) -> None:
    code, _, err = run_cli(
        ["embed", "--lane=sql", f"--source={job.source}", f"--results={job.results}", f"--model={model}",
         f"--dimension={dimension}", f"--work_dir={job.directory}", *more]
    )  # fmt: skip
    assert code == 0, err


@pytest.fixture(scope="module")
def lab(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    plain = [{"data": view(photo, number), "asset_id": photo} for photo in photos() for number in range(VIEWS)]
    dark = [{"data": view(photo, 2, "dark"), "asset_id": f"dark:{photo}"} for photo in photos()[:DARK]]
    job = make_job(cloud, tmp_path_factory.mktemp("search"), [*plain, *dark])
    embed(job, "multimodalembedding@001", 256)
    yield Lab(job)
    bigquery.Client().delete_dataset(job.results, delete_contents=True)


@pytest.fixture(scope="module")
def mixed(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Vectors of two models, and of one image only one of them."""
    job = make_job(cloud, tmp_path_factory.mktemp("mixed"), 4)
    embed(job, "multimodalembedding@001", 128)
    embed(job, "gemini-embedding-2", 64, "--limit=2")
    yield Lab(job)
    bigquery.Client().delete_dataset(job.results, delete_contents=True)


# Results


@pytest.mark.long
def test_ranks_views_of_one_photograph_first(lab: Lab) -> None:
    hits = total = 0
    for place, photo in enumerate(photos()):
        unit = str(lab.job.rows[place * VIEWS]["observation_id"])
        found = lab.find(f"--like={unit}", "--top_k=5", "--where=NOT STARTS_WITH(asset_id, 'dark:')")
        assert unit not in {row["unit_id"] for row in found}
        hits += sum(row["asset_id"] == photo for row in found)
        total += len(found)
    assert total == 5 * len(photos())
    assert hits / total >= 0.9


def test_finds_dark_images_by_text(lab: Lab) -> None:
    found = lab.find("--text=dark", "--top_k=200")
    assert [row["rank"] for row in found] == list(range(1, len(photos()) * VIEWS + DARK + 1))
    ranks = {row["asset_id"]: row["rank"] for row in reversed(found)}  # the best of each
    assert all(ranks[f"dark:{photo}"] < ranks[photo] for photo in photos()[:DARK])
    assert any(row["asset_id"].startswith("dark:") for row in found[:3])
    distances = [row["distance"] for row in found]
    assert distances == sorted(distances)


def test_finds_the_image_of_a_local_picture(lab: Lab, tmp_path: Path) -> None:
    picture = tmp_path / "pole.jpg"
    picture.write_bytes(view(photos()[3], 1))
    found = lab.find(f"--image={picture}", "--top_k=3")
    assert found[0]["unit_id"] == lab.job.rows[3 * VIEWS + 1]["observation_id"]
    assert found[0]["distance"] == pytest.approx(0, abs=1e-6)


def test_applies_the_where_condition(lab: Lab) -> None:
    found = lab.find("--text=dark", "--top_k=50", f"--where=asset_id = '{photos()[0]}' OR FALSE -- no more")
    assert {row["asset_id"] for row in found} == {photos()[0]}
    assert len(found) == VIEWS


def test_succeeds_without_results(lab: Lab, tmp_path: Path) -> None:
    code, out, _ = run_cli(lab.arguments("--text=dark", "--where=FALSE", f"--html={tmp_path / 'none.html'}"))
    assert (code, out) == (0, "no results\n")
    assert "No results." in (tmp_path / "none.html").read_text()


def test_prints_a_table_nearest_first(lab: Lab) -> None:
    code, out, err = run_cli(lab.arguments("--text=dark", "--top_k=3"))
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["rank", "distance", "unit_id"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert "multimodalembedding@001, 256 dimensions" in err


def test_returns_a_unit_with_two_vectors_once(lab: Lab) -> None:
    unit = str(lab.job.rows[0]["observation_id"])
    lab.job.query(
        f"INSERT INTO {{results}}.{TABLE} SELECT * REPLACE ('000000000000' AS version) FROM {{results}}.{TABLE} "
        f"WHERE unit_id = '{unit}'"
    )
    found = lab.find(f"--like={lab.job.rows[1]['observation_id']}", "--top_k=5")
    assert [row["unit_id"] for row in found].count(unit) == 1
    assert len(found) == 5


@pytest.mark.parametrize("model", MODELS)
def test_searches_by_text_with_each_model(mixed: Lab, model: str) -> None:
    mixed.job.cloud.reset()
    found = mixed.find("--text=dark", f"--model={model}", "--top_k=2")
    assert len(found) == 2


# Saved tables and contact sheets


@pytest.mark.long
def test_classifies_a_saved_search_result(lab: Lab) -> None:
    out = f"{lab.job.results}.found_dark"
    kept = lab.find("--text=dark", f"--top_k={DARK}", f"--out_table={out}")
    assert len(kept) == DARK
    code, said, err = run_cli(
        ["classify", "--task=image_quality", f"--source={out}", f"--results={lab.job.results}", "--json",
         f"--work_dir={lab.job.directory}"]
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(said)["counted"]["ok"] == DARK
    rows = lab.job.query("SELECT unit_id, asset_id FROM {results}.image_quality")
    assert {(row["unit_id"], row["asset_id"]) for row in rows} == {(row["unit_id"], row["asset_id"]) for row in kept}
    assert "already exists" in lab.fail("--text=dark", f"--out_table={out}")
    assert len(lab.find("--text=dark", "--top_k=2", f"--out_table={out}", "--force")) == 2


class _Parser(html.parser.HTMLParser):
    """Collects every tag with its attributes; fails on tags that are not closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @classmethod
    def read(cls, text: str) -> "_Parser":
        parser = cls()
        parser.feed(text)
        parser.close()
        assert parser.open == []
        return parser


def test_contact_sheet_has_thumbnails_on_request_and_loads_nothing(lab: Lab, tmp_path: Path) -> None:
    without, sheet = tmp_path / "plain.html", tmp_path / "sheet.html"
    picture = tmp_path / "query.jpg"
    picture.write_bytes(view(photos()[3], 1))
    lab.find("--text=a <b>dark</b> road", "--top_k=5", f"--html={without}")
    lab.find(f"--image={picture}", "--top_k=5", f"--html={sheet}", "--thumbnails")
    plain = _Parser.read(without.read_text())
    assert not [tag for tag, _ in plain.tags if tag == "img"]
    assert "images that show: a <b>dark</b> road" in plain.texts
    made = _Parser.read(sheet.read_text())
    sources = [attributes["src"] for tag, attributes in made.tags if tag == "img"]
    assert len(sources) == 6
    assert all(str(source).startswith("data:image/jpeg;base64,") for source in sources)
    for document in (plain, made):
        assert {tag for tag, _ in document.tags} <= {
            "html", "head", "meta", "title", "style", "body", "h1", "p", "ol", "li", "img", "strong", "dl", "dt", "dd",
            "a", "span",
        }  # fmt: skip
        outside = [value for tag, attributes in document.tags if tag != "a" for value in attributes.values()]
        assert not [value for value in outside if re.match(r"\s*(https?:|//)", str(value))]
    assert "already exists" in lab.fail("--text=dark", f"--html={sheet}")


def test_contact_sheet_leaves_out_unreadable_images(mixed: Lab, tmp_path: Path) -> None:
    uri = mixed.job.uri(0)
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    storage.Client().bucket(bucket).blob(name).delete()
    sheet = tmp_path / "sheet.html"
    more = ("--text=dark", "--model=multimodalembedding@001", f"--html={sheet}", "--thumbnails")
    code, _, err = run_cli(mixed.arguments(*more))
    assert code == 0
    assert "1 images could not be read" in err
    assert sheet.read_text().count("no image") == 1


NASTY = st.text(max_size=30) | st.sampled_from(
    ["<script>alert(1)</script>", '" onload="x', "'", "&amp;", "</title>", "]]>", "javascript:alert(1)", "\x00\x1b[1m"]
)


@given(NASTY, NASTY, NASTY)
def test_contact_sheet_escapes_all_text(title: str, unit: str, link: str) -> None:
    row = {"unit_id": unit, "uri": title, "rank": 1, "distance": 0.5, "map_url": link, "asset_id": unit}
    sheet = contact_sheet(title, [unit], [row, row], pictures={unit: PreparedImage(b"x", "image/png", 1, 1)})
    empty = contact_sheet("t", ["a"], [{**row, "unit_id": "u", "uri": "x", "map_url": None, "asset_id": "u"}] * 2,
                          pictures={"u": PreparedImage(b"x", "image/png", 1, 1)})  # fmt: skip
    tags = [tag for tag, _ in _Parser.read(sheet).tags if tag != "a"]
    assert tags == [tag for tag, _ in _Parser.read(empty).tags]
    for _, attributes in _Parser.read(sheet).tags:
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("href", "https://x")).startswith(("http://", "https://"))


def test_contact_sheet_rejects_svg() -> None:
    with pytest.raises(ValueError, match="svg"):
        contact_sheet("t", [], [], query=PreparedImage(b"<svg/>", "image/svg+xml", 1, 1))


# Errors


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "nothing is given"),
        (("--text=a", "--like=b"), "--text and --like are given"),
        (("--like=o1:unknown",), "'o1:unknown' has no vector"),
        (("--text=a", "--model=gemini-embedding-2,multimodalembedding@001"), "two models cannot be compared"),
        (("--text=a", "--model=gemini-embedding-2"), "available: --model=multimodalembedding@001 --dimension=256"),
        (("--text=a", "--model=multimodalembedding@001", "--dimension=768"), "128, 256, 512 or 1408"),
        (("--text=a", "--dimension=128"), "has no embeddings for --dimension=128"),
        (("--text=a", "--where=a) OR (b"), "is unmatched"),
        (("--text=a", "--where=no_such_column = 1"), "no_such_column"),
        (("--text=a", "--top_k=0"), "--top_k"),
        (("--image=/no/such/file.jpg",), "No such file"),
        (("--text=a", "--thumbnails"), "set --html=FILE too"),
        (("--text=a", "--html=/no/such/place/x.html"), "/no/such/place does not exist"),
        (("--text=a", "--out_table=d.outcomes"), "imagebeam maintains"),
        (("--text=a", "--location=europe-nowhere1x"), "--location"),
        (("--text=" + "word " * 200,), "rejects the text"),
        (("--txet=a",), "--text"),
    ],
)  # fmt: skip
def test_rejects_invalid_searches_in_one_line(lab: Lab, more: tuple[str, ...], said: str) -> None:
    assert said in lab.fail(*more)


def test_rejects_a_file_that_is_not_an_image(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no picture")
    assert "--image=" in lab.fail(f"--image={tmp_path / 'x.jpg'}")


def test_lists_the_matching_tables(mixed: Lab) -> None:
    line = mixed.fail("--text=dark")
    assert "--model=gemini-embedding-2 --dimension=64" in line
    assert "--model=multimodalembedding@001 --dimension=128" in line


def test_rejects_a_unit_with_a_vector_of_another_model(mixed: Lab) -> None:
    rows = mixed.job.query("SELECT unit_id FROM {results}.embeddings_gemini_embedding_2_64")
    embedded = {row["unit_id"] for row in rows}
    other = next(str(row["observation_id"]) for row in mixed.job.rows if row["observation_id"] not in embedded)
    line = mixed.fail(f"--like={other}", "--model=gemini-embedding-2")
    assert "cannot be compared" in line
    assert "--model=multimodalembedding@001 --dimension=128" in line


def test_searches_vectors_of_unknown_models_by_example_only(cloud: LocalCloud) -> None:
    dataset = "vectors_of_ours"
    client = bigquery.Client()
    client.create_dataset(dataset)
    try:
        client.query(
            f"CREATE TABLE {dataset}.embeddings_ours_2 AS SELECT id AS unit_id, id AS observation_id, id AS uri, "
            "'a' AS asset_id, 't' AS asset_type, CURRENT_TIMESTAMP() AS capture_time, 1.0 AS latitude, "
            "1.0 AS longitude, 'm' AS map_url, 's' AS snapshot_id, 'our-own-model' AS model, 2 AS dimension, "
            "[x, 1.0] AS vector, 'v' AS version, 'r' AS run_id, CURRENT_TIMESTAMP() AS embedded_at "
            "FROM UNNEST(['a', 'b', 'c']) AS id WITH OFFSET AS x"
        ).result()
        code, _, err = run_cli(["search", f"--results={dataset}", "--text=dark"])
        assert code == 2
        assert "our-own-model" in err
        assert "--like=ID" in err
        code, out, _ = run_cli(["search", f"--results={dataset}", "--like=a", "--json"])
        assert code == 0
        assert [row["unit_id"] for row in json.loads(out)["found"]] == ["b", "c"]
    finally:
        client.delete_dataset(dataset, delete_contents=True)


@pytest.mark.parametrize("dataset", ["no_such_dataset_here", "empty_of_vectors"])
def test_rejects_a_dataset_without_embeddings(cloud: LocalCloud, dataset: str) -> None:
    if dataset == "empty_of_vectors":
        bigquery.Client().create_dataset(dataset)
    code, _, err = run_cli(["search", f"--results={dataset}", "--text=dark"])
    assert code == 2
    assert ("imagebeam embed" if dataset == "empty_of_vectors" else "does not exist") in err
    assert len(err.splitlines()) == 1


# Text embeddings


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("multimodalembedding@001", lambda values: {"predictions": [{"textEmbedding": values}]}),
        ("gemini-embedding-2", lambda values: {"embedding": {"values": values}}),
    ],
)
def test_reads_the_text_embedding_of_each_model(model: str, body: Callable[[list[float]], Any]) -> None:
    task = embed_task(model, 128)
    request = build_text_request(task, "dark")
    assert "dark" in json.dumps(request)
    assert "128" in json.dumps(request)
    reply = parse_text_embedding(body([0.5] * 128), task)
    assert reply.status is Status.OK
    assert reply.vector is not None
    assert list(reply.vector) == [0.5] * 128
    for wrong in ([], [0.5] * 127, [0.0] * 128):
        assert parse_text_embedding(body(wrong), task).status is Status.INVALID_ANSWER

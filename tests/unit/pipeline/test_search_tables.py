"""The table of embeddings that a search uses."""

from pathlib import Path

import pytest
from support.settings_lines import search_settings

from imagebeam.pipeline.similarity.command import EmbeddingTable, select_table
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName

SMALL, LARGE, OTHER = (
    EmbeddingTable(TableName("p", "answers", f"embeddings_{name}_{dimension}"), model, dimension)
    for name, model, dimension in (
        ("gemini_embedding_2", "gemini-embedding-2", 256),
        ("gemini_embedding_2", "gemini-embedding-2", 768),
        ("multimodalembedding_001", "multimodalembedding@001", 512),
    )
)


def select(cwd: Path, tables: list[EmbeddingTable], *more: str) -> EmbeddingTable:
    given = ["--text=a", "--results=answers", "--project=my-project", *more]
    return select_table(tables, search_settings(given, cwd=cwd, environ={}))


def test_a_single_table_needs_no_flags(tmp_path: Path) -> None:
    assert select(tmp_path, [LARGE]) is LARGE


def test_flags_choose_among_several_tables(tmp_path: Path) -> None:
    tables = [SMALL, LARGE, OTHER]
    assert select(tmp_path, tables, "--dimension=768") is LARGE
    assert select(tmp_path, tables, "--model=multimodalembedding@001") is OTHER


def test_several_matching_tables_are_listed_with_their_flags(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        select(tmp_path, [SMALL, LARGE, OTHER], "--model=gemini-embedding-2")
    line = str(caught.value)
    assert line.startswith("my-project.answers has several tables of embeddings")
    assert line.endswith(
        "add --model=gemini-embedding-2 --dimension=256 (embeddings_gemini_embedding_2_256) or "
        "--model=gemini-embedding-2 --dimension=768 (embeddings_gemini_embedding_2_768)"
    )

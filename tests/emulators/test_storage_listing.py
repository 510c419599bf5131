"""Listings of the local Cloud Storage, as a pure function."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.listing import glob_pattern, list_page
from imagebeam.emulators.storage.resources import merge_patch, select_fields

NAMES = st.sets(st.text(alphabet="ab/é", min_size=1, max_size=6), max_size=20)


def _all_pages(names: list[str], query: dict[str, str], size: int) -> tuple[list[str], list[str]]:
    items: list[str] = []
    prefixes: list[str] = []
    token = None
    while True:
        asked = {**query, "maxResults": str(size)} | ({"pageToken": token} if token else {})
        page = list_page(names, asked)
        assert len(page.names) + len(page.prefixes) <= size
        items += page.names
        prefixes += page.prefixes
        token = page.next_token
        if token is None:
            return items, prefixes


@given(NAMES, st.sampled_from(["", "a", "a/", "a/b"]), st.sampled_from(["", "/", "b"]), st.integers(1, 5))
def test_pages_of_any_size_contain_every_entry_once(found: set[str], prefix: str, delimiter: str, size: int) -> None:
    names = sorted((name for name in found if name.startswith(prefix)), key=str.encode)
    items, prefixes = _all_pages(names, {"prefix": prefix, "delimiter": delimiter}, size)
    rest = {name: name[len(prefix) :] for name in names}
    assert items == [name for name in names if not delimiter or delimiter not in rest[name]]
    expected = {
        prefix + rest[name].partition(delimiter)[0] + delimiter
        for name in names
        if delimiter and delimiter in rest[name]
    }
    assert sorted(prefixes) == sorted(expected)


@given(NAMES, st.text(alphabet="ab/é", max_size=3), st.text(alphabet="ab/é", max_size=3))
def test_offsets_limit_the_listing(found: set[str], start: str, end: str) -> None:
    names = sorted(found, key=str.encode)
    items, _ = _all_pages(names, {"startOffset": start, "endOffset": end}, 3)
    assert items == [
        name for name in names if name.encode() >= start.encode() and (not end or name.encode() < end.encode())
    ]


@given(st.text(alphabet="ab*?", max_size=6), st.text(alphabet="ab", max_size=6))
def test_glob_without_slashes_matches_like_fnmatch(glob: str, name: str) -> None:
    assert bool(glob_pattern(glob).fullmatch(name)) == fnmatch.fnmatchcase(name, glob)


@pytest.mark.parametrize(
    ("glob", "name", "fits"),
    [
        ("a/*.jpg", "a/b/c.jpg", False),
        ("a/**.jpg", "a/b/c.jpg", True),
        ("a?b", "a/b", False),
        ("a[!x]b", "a/b", False),
        ("a[^x]b", "ayb", True),
        ("{a,b/*}.txt", "b/c.txt", True),
        ("a.b", "axb", False),
    ],
)
def test_globs_support_slashes_sets_and_alternatives(glob: str, name: str, *, fits: bool) -> None:
    assert bool(glob_pattern(glob).fullmatch(name)) is fits


@pytest.mark.parametrize(
    "query", [{"maxResults": "many"}, {"pageToken": "?"}, {"matchGlob": "[a"}, {"matchGlob": "{a"}]
)
def test_invalid_parameter_is_400(query: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        list_page(["a"], query)
    assert caught.value.code == 400


def test_fields_parameter_selects_fields() -> None:
    resource = {"kind": "k", "items": [{"name": "a", "size": "1", "metadata": {"x": 1, "y": 2}}], "nextPageToken": "t"}
    assert select_fields(resource, "items(name,metadata/x),nextPageToken") == {
        "items": [{"name": "a", "metadata": {"x": 1}}],
        "nextPageToken": "t",
    }
    assert select_fields(resource, "kind") == {"kind": "k"}
    assert select_fields(resource, "*") == resource
    with pytest.raises(ApiError):
        select_fields(resource, "items(name")


def test_merge_patch_removes_nulls_and_merges_objects() -> None:
    old = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merge_patch(old, {"a": {"x": None, "z": 4}, "b": None}) == {"a": {"y": 2, "z": 4}}

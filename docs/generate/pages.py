"""All generated pages, and pages with generated blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs.generate import exit_codes, flags, prices, python_api, roles, tables, task_files
from docs.generate.markdown import replace_block

#: Pages that are generated as a whole.
PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/reference/flags.md": flags.build_page,
    "docs/reference/tables.md": tables.build_page,
    "docs/reference/task.md": task_files.build_page,
    "docs/reference/exit-codes.md": exit_codes.build_page,
    "docs/reference/python.md": python_api.build_page,
}
#: Page → blocks by name.
BLOCKS: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "docs/guides/preflight.md": {"checks": roles.build_checks},
    "docs/security.md": {"roles": roles.build_roles},
    "docs/cost.md": {"prices": prices.build_prices},
}


def build_pages(root: Path) -> dict[str, str]:
    """Return path and text of every page that is generated, or has generated blocks.

    Args:
        root: Top directory of the repository.
    """
    found = {name: build() for name, build in PAGES.items()}
    for name, blocks in BLOCKS.items():
        page = (root / name).read_text(encoding="utf-8")
        for block, build in blocks.items():
            page = replace_block(page, block, build())
        found[name] = page
    return found

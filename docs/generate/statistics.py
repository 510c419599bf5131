"""Write the results of the queries in docs/guides/statistics.md, from the tables of a finished demo.

python -m docs.generate.statistics DIR [--write]    # DIR of: imagebeam local demo --dir DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Final

from imagebeam.emulators.bigquery.offline_query import query_database
from imagebeam.emulators.bigquery.result_text import render

PAGE: Final = "docs/guides/statistics.md"
_PROJECT: Final = "imagebeam-local"
#: A query and its result; a result that varies from run to run is marked.
_BLOCK: Final = re.compile(
    r"^```sql\n(?P<sql>.*?)^```\n\n```text(?P<varies> varies)?\n(?P<result>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A query of the page.

    Attributes:
        sql: Its SQL.
        result: Its result in the page.
        varies: Whether values of the result differ from run to run.
    """

    sql: str
    result: str
    varies: bool


def read_examples(page: str) -> list[Example]:
    """Return the queries of the page with their results."""
    return [Example(found["sql"], found["result"], bool(found["varies"])) for found in _BLOCK.finditer(page)]


def run_query(directory: Path, sql: str) -> str:
    """Return the result of a query on the tables of a finished demo, as text.

    Args:
        directory: State directory of the demo.
        sql: The query.
    """
    return render(*query_database(directory / "bigquery.duckdb", _PROJECT, sql), "table")


def build_page(page: str, directory: Path) -> str:
    """Return the page with new results."""

    def replace(found: re.Match[str]) -> str:
        result = run_query(directory, found["sql"])
        return f"```sql\n{found['sql']}```\n\n```text{found['varies'] or ''}\n{result}```"

    return _BLOCK.sub(replace, page)


def main() -> int:
    """Print the page with new results; write it with ``--write``."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate.statistics")
    parser.add_argument("directory", type=Path, help="directory of a finished demo")
    parser.add_argument("--write", action="store_true", help="write the page")
    arguments = parser.parse_args()
    path = Path(__file__).parents[2] / PAGE
    page = build_page(path.read_text(encoding="utf-8"), arguments.directory)
    if arguments.write:
        path.write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

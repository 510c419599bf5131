"""Write the generated pages and blocks of docs/, or list those that are stale.

python -m docs.generate            # list stale pages; exit code 1 if there are any
python -m docs.generate --write
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs.generate.pages import build_pages

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Compare the pages with the code, and write them with ``--write``."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate")
    parser.add_argument("--write", action="store_true", help="write stale pages")
    write = parser.parse_args().write
    stale = 0
    for name, text in build_pages(ROOT).items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.stdout.write(f"{'written' if write else 'stale'}: {name}\n")
            stale += 1
            if write:
                path.write_text(text, encoding="utf-8")
    return 0 if write or not stale else 1


if __name__ == "__main__":
    sys.exit(main())

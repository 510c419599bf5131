"""``python -m imagebeam.pipeline``: the same as the command ``imagebeam``."""

import sys

from imagebeam.pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

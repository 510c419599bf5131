"""What the launcher runs; everything else is in the package."""

import sys

from imagebeam.pipeline.cli.flex_template import main

sys.exit(main())

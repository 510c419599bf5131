"""What the launcher runs; everything else is in the package."""

import sys

from imagebeam.pipeline.template_main import main

sys.exit(main())

"""Entry point of the Flex Template launcher."""

import sys

from imagebeam.pipeline.cli.flex_template import main

sys.exit(main())

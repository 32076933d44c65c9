"""`python -m pmljax` is `pmljax`."""

import sys

from pmljax.cli import main

sys.exit(main())

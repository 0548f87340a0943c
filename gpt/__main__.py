"""`python -m gpt`: the same as `gpt`."""

import sys

from gpt.cli import main

sys.exit(main())

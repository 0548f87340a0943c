"""`python -m gpt`: the same as `gpt`."""

import sys

from gpt.commands.main import main

sys.exit(main())

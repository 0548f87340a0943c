"""`python -m infra.servers up|down|status`: see infra/servers/control.py."""

import sys

from infra.servers.control import main

if __name__ == "__main__":
    sys.exit(main())

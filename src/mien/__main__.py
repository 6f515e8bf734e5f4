"""``python -m mien`` is the command ``mien``."""

import sys

from mien.interfaces.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""Entry point of the command ``mien`` and of ``python -m mien``."""

import sys


def main() -> int:
    """Run the command of this process's arguments and return its exit code."""
    try:
        from mien.cli.main import main as run  # takes long enough for a Ctrl-C

        return run()
    except KeyboardInterrupt:
        print("mien: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

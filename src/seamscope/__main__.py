"""``python -m seamscope`` is the command ``seamscope``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command ``seamscope``; Ctrl-C is a sentence from the first moment on."""
    try:
        from seamscope.cli import main as command

        command()
    except KeyboardInterrupt:  # before a command hears it
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

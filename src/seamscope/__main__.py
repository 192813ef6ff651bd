"""``python -m seamscope`` is the command ``seamscope``."""

from seamscope.cli import main

if __name__ == "__main__":
    main()

"""``python -m fastmlp``: the command line."""

from fastmlp.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""``python -m analysis``: see `analysis.cli`."""

import sys


def main() -> None:
    """Run the command line, or say in one sentence which package is missing."""
    try:
        from analysis.cli import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("analysis", "proxlab"):
            raise
        sys.exit(f"The studies need the package {error.name!r}: pip install 'proxlab[analysis]'")
    app(prog_name="python -m analysis")


if __name__ == "__main__":
    main()

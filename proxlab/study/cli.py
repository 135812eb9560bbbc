"""The command ``proxlab``: validate, compare, converge and report on one's own data."""

import sys


def main() -> None:
    """Run the command line, or say in one sentence which package is missing."""
    try:
        from proxlab.study.commands import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "proxlab":
            raise
        sys.exit(f"The command proxlab needs the package {error.name!r}: pip install 'proxlab[study]'")
    app(prog_name="proxlab")

"""``python -m proxlab`` is the command ``proxlab``: see `proxlab.study.cli`."""

from proxlab.study.cli import main

if __name__ == "__main__":
    main()

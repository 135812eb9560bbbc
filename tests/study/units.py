"""Functions of units for the tests, importable on workers."""

import os
import time
from pathlib import Path

import numpy as np

from proxlab.study import Result


def square(number, seed=0):
    if number < 0:
        raise ValueError("negative")
    return Result({"square": number**2}, {"row": np.full(number, seed)})


def counted(number, calls):
    with Path(calls).open("a") as file:
        file.write(f"{number}\n")
    return square(number)


def dies_once(number, mark):
    """End the worker's process the first time."""
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return square(number)
    os._exit(1)


def slow(number, seconds):
    time.sleep(seconds)
    return square(number)


def process(number):
    return Result({"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")})

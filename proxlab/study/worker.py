"""A worker of a local cluster: ``python -m proxlab.study.worker ADDRESS FOLDER``, until its parent ends.

Started as a program of its own rather than by `multiprocessing`, which would run the user's script again in
every worker: scripts without ``if __name__ == "__main__"`` and notebooks work.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading

#: Environment variable with the parent's search path and arguments.
PARENT = "PROXLAB_STUDY_PARENT"


def _end_with_parent() -> None:
    """End the process when the other end of standard input is gone, which is when the parent is."""
    while os.read(0, 4096):
        pass
    os._exit(0)


async def _serve(address: str, scratch: str) -> None:
    from distributed import Worker

    # No limit of memory: the system ends a process that takes too much, and its unit is tried again.
    worker = Worker(
        address, nthreads=1, memory_limit=0, dashboard=False, host="127.0.0.1", local_directory=scratch
    )
    async with worker:
        await worker.finished()


def main() -> None:
    """Serve until the scheduler or the parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    address, scratch = sys.argv[1:]
    # As in the parent, so that what runs there runs here.
    sys.path[:], sys.argv[:] = json.loads(os.environ.pop(PARENT))
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(_serve(address, scratch))


if __name__ == "__main__":
    main()

"""The first demo compiles the hot loops, a minute or two on a small machine: a second core helps.

Compiled code is kept on disk, where the exporter finds what the process beside it has compiled by
then. From the second time on there is nothing to compile, and that process ends at once.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def compiling_ahead() -> Iterator[None]:
    """Meanwhile another process compiles what the exporter comes to last."""
    if (os.cpu_count() or 1) == 1:
        yield
        return
    quiet = subprocess.DEVNULL
    beside = subprocess.Popen(
        [sys.executable, "-m", "outcome_exporter.warmup"], stdin=quiet, stdout=quiet, stderr=quiet
    )
    try:
        yield
    finally:
        beside.kill()
        beside.wait()

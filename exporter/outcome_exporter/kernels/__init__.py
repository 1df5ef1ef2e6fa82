"""Loops over arrays, compiled by numba: no Python object for a span, an attempt or a key.

Compiled code is kept on disk. numba notices a change of the file that a kernel stands in, but not
of a kernel that it calls, a constant or a row type from another file: it would go on with the old
one. So what is kept lies in a folder named for the sources of all of them. Where it can be kept is
numba's to find out: NUMBA_CACHE_DIR, else beside this file, else in the user's own cache folder.
"""

import hashlib
from pathlib import Path
from typing import Any

import numba

_HERE = Path(__file__).parent
_SOURCES = (*sorted(_HERE.glob("*.py")), _HERE.parent / "model.py", _HERE.parent / "plan.py")


def _digest() -> str:
    """What compiled code depends on, as a name."""
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()


_config: Any = numba.config
_config.CACHE_DIR = str(Path(_config.CACHE_DIR or _HERE / "__pycache__") / f"kernels-{_digest()}")

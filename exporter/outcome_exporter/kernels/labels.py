"""How the values of an attempt's labels are packed: a code for each, by the label's place.

Places follow the order of the configuration's file. Where that changes, the codes of what is kept
move along, so that nobody has to know in which order the labels once stood.
"""

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.jit import kernel
from outcome_exporter.model import LABELS_MAX, Table

LABEL_BITS = 10
"""Width of a code."""


@kernel
def repacked(packed: np.uint64, places: npt.NDArray[np.int64]) -> np.uint64:
    """The same codes, each at the new place of its label; shape of `places`: (LABELS_MAX,).

    Those of labels whose new place is -1 are left out.
    """
    mask = np.uint64((1 << LABEL_BITS) - 1)
    moved = np.uint64(0)
    for n in range(LABELS_MAX):
        if places[n] >= 0:
            code = packed >> np.uint64(LABEL_BITS * n) & mask
            moved |= code << np.uint64(LABEL_BITS * places[n])
    return moved


@kernel
def relabel(rows: Table, which: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> None:
    """Repacks the labels of some rows; `places` is those of their `journey`."""
    for row in which:
        rows[row].labels = repacked(rows[row].labels, places[rows[row].journey])

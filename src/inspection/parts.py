"""What the parts of a table's examples are: numbers and how they lie, or texts and the most frequent ones.

described_parts({"age": ages, "sex": sexes})    # {"age": "48.5 on average, 19 to 79", "sex": "2 texts: f 53%, m 47%"}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.data.batch import cell

SHOWN_TEXTS = 3


def described_parts(parts: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """A line for each part.

    Args:
        parts: by name, a number or a text of each example; the others are left out.
    """
    found = {}
    for name, given in parts.items():
        values = np.asarray(given)
        if values.ndim != 1 or not values.size:
            continue
        if values.dtype.kind in "biuf":
            low, high = values.min(), values.max()
            found[name] = f"{values.mean():.4g} on average, {low:.4g} to {high:.4g}"
        else:
            counts = Counter(map(cell, values.tolist()))
            most = ", ".join(f"{text} {count / values.size:.0%}" for text, count in counts.most_common(SHOWN_TEXTS))
            more = ", ..." if len(counts) > SHOWN_TEXTS else ""
            found[name] = f"{len(counts)} {'text' if len(counts) == 1 else 'texts'}: {most}{more}"
    return found

"""The nearest right spelling of a word that is wrong.

did_you_mean("lerning_rate", ["learning_rate", "momentum"])     # ". Did you mean learning_rate?"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The nearest right spelling as an end of a message, or nothing: letters exchanged, wrong, or left out."""
    close = [k for k in known if len(word) > 2 and sorted(k) == sorted(word)]
    close = close or difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if not close:  # right but for where it stands, as learning_rate for optimizer.learning_rate
        last = word.rpartition(".")[2]
        names = {k.rpartition(".")[2]: k for k in reversed(known)}
        near = difflib.get_close_matches(last, names, n=1, cutoff=0.75)
        near = near or difflib.get_close_matches(last, [n for n in names if _abbreviates(last, n)], n=1, cutoff=0)
        close = [names[name] for name in near]
    return f". Did you mean {close[0]}?" if close else ""


def _abbreviates(short: str, name: str) -> bool:
    """Whether these are letters of the name in order, the first of each of its words among them: lr, lrate."""
    initials = [word[:1] for word in name.split("_")]
    return len(initials) > 1 and _in_order(initials, short) and _in_order(short, name) and short[:1] == name[:1]


def _in_order(letters: Iterable[str], text: str) -> bool:
    rest = iter(text)
    return all(letter in rest for letter in letters)

"""What the benchmarks that break things share: campaigns, each with a count of tries, and a table of what held.

    arguments = parser("resume", __doc__, CAMPAIGNS).parse_args(argv)
    return run(CAMPAIGNS, arguments)

A campaign is a function from an empty folder and a count to a Tally.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

# Everything that carries state: dropout's seeds, batch normalisation, averages, a schedule, augmentation, patience.
ALL_STATE = [
    *("data=digits", "model=cnn", "model.dropout=0.3", "model.batch_norm=true"),
    *("optimizer=adamw", "+optimizer.use_ema=true", "schedule=cosine", "callback=early_stopping"),
    *("callback.early_stopping.patience=2", "callback.early_stopping.min_delta=0.02", "epochs=8"),
    "data.transforms.shift={_target_: src.data.transforms.Shift, max_pixels: 1}",
]


class Tally(NamedTuple):
    """A campaign's line of the table."""

    campaign: str
    tries: int
    held: int
    remark: str


Campaigns = Mapping[str, tuple[int, Callable[[Path, int], Tally]]]


def parser(name: str, description: str | None, campaigns: Campaigns) -> argparse.ArgumentParser:
    """The options that all have: which campaigns, and what share of their counts."""

    def known(campaign: str) -> str:
        if campaign not in campaigns:
            raise argparse.ArgumentTypeError(f"unknown {campaign}; there is {', '.join(campaigns)}")
        return campaign

    made = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=(description or "").split("\n")[0])
    made.add_argument("campaigns", nargs="*", type=known, help=f"of {', '.join(campaigns)}; all by default")
    made.add_argument("--share", type=float, default=1.0, help="of each campaign's full count")
    return made


def run(campaigns: Campaigns, arguments: argparse.Namespace) -> int:
    """Run those asked for, and print the table; returns the exit code, 1 if anything did not hold."""
    rows = []
    for name in arguments.campaigns or campaigns:
        count, campaign = campaigns[name]
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            row = campaign(Path(folder), max(1, round(count * arguments.share)))
        rows.append(row)
        print(f"{_line(row)}  ({time.monotonic() - began:.0f} s)", flush=True)
    print("\n" + "\n".join(map(_line, rows)))
    return 0 if all(row.tries == row.held for row in rows) else 1


def _line(row: Tally) -> str:
    return f"{row.campaign:10} {row.held:4} of {row.tries:4} held  {row.remark}"

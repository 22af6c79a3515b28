"""The first five losses of real configs, pinned: a change of structure proves with them that it changes nothing.

Where a result is meant to change, run this file as a program and paste what it prints. Last bits depend on the
processor and the threads, so 1e-4 is allowed.
"""

from __future__ import annotations

import numpy as np
import pytest

from src import build
from src.config.compose import compose
from src.training.callback import Callback

GOLDEN = {
    "data=digits model=cnn": [2.328706, 2.305806, 2.269025, 2.251984, 2.253659],
    "data=digit_scenes model=unet": [2.431181, 2.254906, 2.147963, 2.043532, 2.009362],
}


class FirstFive(Callback):
    at_steps = (5,)

    def __init__(self) -> None:
        self.losses = []

    def on_log(self, state, metrics):
        self.losses += [float(loss) for loss in state.losses]
        return "five steps" if state.step == 5 else None


def first_losses(overrides: str, run_dir) -> list[float]:
    cfg = compose(
        [*overrides.split(), "~callback.export", "~callback.checkpoint", "~callback.images", "~callback.summaries"]
    )
    build.set_up_process(threads=1)
    data, recorder = build.build_data(cfg), FirstFive()
    trainer = build.build_trainer(cfg, data, run_dir=run_dir, extra_callbacks={"recorder": recorder})
    trainer.fit(data.train, data.val, epochs=cfg.epochs)
    return recorder.losses


@pytest.mark.sample(1)
@pytest.mark.parametrize("overrides", GOLDEN)
def test_first_five_losses(overrides, tmp_path):
    np.testing.assert_allclose(first_losses(overrides, tmp_path), GOLDEN[overrides], rtol=1e-4)


if __name__ == "__main__":
    from pathlib import Path

    for key in GOLDEN:
        print(f'    "{key}": {[round(loss, 6) for loss in first_losses(key, Path("outputs"))]},')

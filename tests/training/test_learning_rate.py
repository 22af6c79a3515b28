"""The learning rate in events, history and logs is the one that each step was taken with: what its weight went by."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from src import schedules
from src.callbacks.checkpoint import Checkpoint
from src.callbacks.reduce_on_plateau import ReduceOnPlateau
from src.callbacks.summaries import Summaries, read_scalars
from src.data.pipeline import InMemory
from src.runs.record import Record
from src.runs.record_callback import RecordCallback
from src.training.callback import Callback
from src.training.checkpoints import Checkpoints
from src.training.trainer import Interrupted, Trainer

STEPS, EPOCHS = 4, 2
RUN = {"learning_rate": 0.5, "steps_per_epoch": STEPS, "total_steps": STEPS * EPOCHS}
HALVED = {"boundaries_fractions": [0.5], "factors": [0.1]}  # from step 5 on
LAST_DIGIT = 2.4e-7  # of a weight of 2 to 4, in float32

RATES = {
    "constant": lambda: schedules.constant(**RUN),
    "warm-up": lambda: schedules.constant(**RUN, warmup_epochs=1),
    "cosine": lambda: schedules.cosine(**RUN),
    "polynomial": lambda: schedules.polynomial(**RUN),
    "exponential": lambda: schedules.exponential(**RUN, decay_per_epoch=0.1),
    "piecewise": lambda: schedules.piecewise(**RUN, **HALVED),
    "one_cycle": lambda: schedules.one_cycle(**RUN),
    "keras": lambda: keras.optimizers.schedules.InverseTimeDecay(0.5, 1, 1.0),
}


class Weights(Callback):
    """The weight after each step, from the start, and the rate that was told of it."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps, self.weights, self.told = every_steps, {}, {}

    def on_train_begin(self, state):
        self.weights[state.step] = float(state.model.weights[0][0, 0])

    def on_log(self, state, metrics):
        self.weights[state.step] = float(state.model.weights[0][0, 0])
        self.told[state.step] = metrics["learning_rate"]


def ones(steps: int = STEPS) -> InMemory:
    return InMemory(np.ones([steps, 1], np.float32), np.zeros([steps, 1], np.float32), batch_size=1)


def trainer_at(rate, **options) -> Trainer:
    """One weight, from 0, whose gradient is always -1: each step adds its rate."""
    keras.utils.clear_session()
    inputs = keras.Input((1,))
    options.setdefault("loss", lambda y, x: -tf.reduce_mean(x))
    return Trainer(
        model=keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)),
        optimizer=keras.optimizers.SGD(rate, name="sgd"),
        monitor="val/loss",
        **options,
    )


def events(folder) -> dict[str, dict[int, list[float]]]:
    found: dict[str, dict[int, list[float]]] = {}
    for (split, tag), points in read_scalars(folder).items():
        for step, value in points if tag == "learning_rate" else []:
            found.setdefault(split, {}).setdefault(step, []).append(value)
    return found


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "steps_per_call"),
    [
        *(pytest.param(name, 1, marks=[] if name == "one_cycle" else pytest.mark.exhaustive) for name in RATES),
        *(("piecewise", 3), ("cosine", 3)),
    ],
)
def test_the_rate_is_what_the_weight_went_by(name, steps_per_call, tmp_path):
    watch = Weights(steps_per_call)
    callbacks = {"watch": watch, "summaries": Summaries(directory=f"{tmp_path}/summaries", graph=False)}
    callbacks["record"] = RecordCallback(record=Record(tmp_path))
    trainer_at(RATES[name](), callbacks=callbacks, steps_per_call=steps_per_call).fit(ones(), ones(2), epochs=EPOCHS)
    every = Weights(1)
    trainer_at(RATES[name](), callbacks={"every": every}).fit(ones(), ones(2), epochs=EPOCHS)
    went_by = {step: every.weights[step] - every.weights[step - 1] for step in range(1, STEPS * EPOCHS + 1)}
    assert watch.told == pytest.approx({step: went_by[step] for step in watch.told}, rel=1e-4, abs=LAST_DIGIT)
    assert {STEPS, STEPS * EPOCHS} <= set(watch.told)
    for split, points in events(tmp_path / "summaries").items():
        for step, values in points.items():
            assert values == pytest.approx([went_by[step]] * len(values), rel=1e-4, abs=LAST_DIGIT), (split, step)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [went_by[STEPS], went_by[2 * STEPS]], rel=1e-4, abs=LAST_DIGIT
    )
    if name == "piecewise":
        assert went_by[STEPS] == pytest.approx(0.5) and went_by[STEPS + 1] == pytest.approx(
            0.05, rel=1e-4, abs=LAST_DIGIT
        )


def test_the_epoch_before_a_plateau_is_told_with_its_own_rate(tmp_path):
    """The callback that lowers the rate is called before those that write it."""
    callbacks = {
        "lower": ReduceOnPlateau(factor=0.1, patience=1),
        "summaries": Summaries(directory=f"{tmp_path}/summaries", graph=False),
        "record": RecordCallback(record=Record(tmp_path)),
    }
    trainer_at(0.5, callbacks=callbacks, mode="max").fit(ones(), ones(2), epochs=3)  # a loss that falls
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.5, 0.5, 0.05])
    val = events(tmp_path / "summaries")["val"]
    assert {step: values[-1] for step, values in val.items()} == pytest.approx({4: 0.5, 8: 0.5, 12: 0.05})


def test_a_step_that_is_left_out_has_the_rate_of_the_next_one():
    """Its gradient overflows for the scale of its loss, which is then halved."""
    watch = Weights(1)
    options = {"callbacks": {"watch": watch}, "loss_scaling": True, "loss": lambda y, x: -4 * x[0, 0]}
    trainer = trainer_at(schedules.polynomial(**RUN), **options)
    trainer.learner.loss_scale.variables[0].assign(3e38)
    trainer.fit(ones(), ones(2), epochs=EPOCHS)
    rate, taken = schedules.polynomial(**RUN), 0
    for step in range(1, STEPS * EPOCHS + 1):
        assert watch.told[step] == pytest.approx(float(rate(taken)))
        taken += watch.weights[step] != watch.weights[step - 1]
    assert taken == STEPS * EPOCHS - 2


def test_an_interruption_before_the_validation_keeps_the_rate_of_the_epoch(tmp_path):
    class Interrupts(Callback):
        every_steps = STEPS

        def on_log(self, state, metrics):
            if state.step == STEPS:
                trainer.interrupt("power")

    saving = {"checkpoint": Checkpoint(directory=f"{tmp_path}/checkpoints")}
    trainer = trainer_at(RATES["piecewise"](), callbacks={"interrupts": Interrupts(), **saving}, steps_per_call=9)
    with pytest.raises(Interrupted):
        trainer.fit(ones(), ones(2), epochs=EPOCHS)
    record = RecordCallback(record=Record(tmp_path))
    resumed = trainer_at(RATES["piecewise"](), callbacks={"record": record})
    assert Checkpoints(tmp_path / "checkpoints").restore(resumed.state) and resumed.state.epoch_step == STEPS
    resumed.fit(ones(), ones(2), epochs=EPOCHS)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.5, 0.05])

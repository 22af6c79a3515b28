"""Keras callbacks that need only logs get them; others are refused with the reason and with what to use instead."""

import re
from types import SimpleNamespace

import keras
import pytest

from src.callbacks.keras import INSTEAD, KerasCallback
from src.config import targets
from tests.jobs import OWN_CODE, own_code
from tests.support.helpers import only_run, train

DIGITS = ("data=digits", "model=mlp", "epochs=2", "callback.export=null", "callback.images=null")


class Log(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls = []

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append((epoch, logs))

    def on_train_end(self, logs=None):
        self.calls.append("end")


def test_logs_are_named_as_keras_names_them():
    log = Log()
    callback = KerasCallback(log)
    state = SimpleNamespace(epoch=1, learning_rate=0.5)
    callback.on_train_begin(state)
    callback.on_epoch_end(state, {"train/loss": 2.0, "train/accuracy": 0.25, "val/loss": 3.0})
    callback.close()
    callback.close()
    logs = {"loss": 2.0, "accuracy": 0.25, "val_loss": 3.0, "learning_rate": 0.5}
    assert log.calls == ["begin", (0, logs), "end"]


def test_those_of_keras_that_need_only_logs_work(tmp_path):
    seen = []
    for given in (
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["loss"])),
    ):
        callback = KerasCallback(given)
        callback.on_train_begin(SimpleNamespace())
        callback.on_epoch_end(SimpleNamespace(epoch=1, learning_rate=None), {"train/loss": 2.0, "val/loss": 3.0})
        callback.close()
    assert (tmp_path / "log.csv").read_text() == "epoch,loss,val_loss\n0,2.0,3.0\n" and seen == [2.0]


MADE = {
    "BackupAndRestore": ("backup",),
    "LearningRateScheduler": (lambda epoch: 0.1,),
    "ModelCheckpoint": ("a.keras",),
    "OrbaxCheckpoint": None,  # needs a package
}


@pytest.mark.parametrize("name", INSTEAD)
def test_those_of_keras_that_need_the_model_are_refused(name):
    if (arguments := MADE.get(name, ())) is None:
        assert hasattr(keras.callbacks, name)
        return
    with pytest.raises(ValueError, match=f"{name} needs the model .*; {re.escape(INSTEAD[name])}"):
        KerasCallback(getattr(keras.callbacks, name)(*arguments))


def test_none_of_keras_is_forgotten():
    there = {name for name in vars(keras.callbacks) if isinstance(getattr(keras.callbacks, name), type)}
    assert there - {*INSTEAD} == {"Callback", "CallbackList", "CSVLogger", "LambdaCallback", "RemoteMonitor"}


class Asks(Log):
    def on_epoch_end(self, epoch, logs=None):
        self.model.save("a.keras")


class Stops(Log):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


class Batches(Log):
    def on_train_batch_end(self, batch, logs=None):
        pass


class Patient(keras.callbacks.EarlyStopping):
    pass


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Asks, "Asks uses model.save, and gets only logs: .*src.training.callback.Callback"),
        (Stops, "Stops uses model.stop_training"),
        (Batches, "Batches has on_train_batch_end, which is never called: batches run within a graph"),
        (Patient, "Patient needs the model .*callback=early_stopping"),
    ],
)
def test_a_users_own_that_needs_more_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        KerasCallback(kind()).on_epoch_end(SimpleNamespace(epoch=1, learning_rate=None), {})


@pytest.mark.parametrize("listed", [False, True])
def test_the_gate_says_how_one_of_keras_is_handed_on(monkeypatch, tmp_path, listed):
    if listed:  # by a user who took the message about other packages at its word
        (tmp_path / "targets.txt").write_text("callback keras.callbacks\n")
        monkeypatch.setattr(targets, "FILE", tmp_path / "targets.txt")
    with pytest.raises(
        targets.TargetError, match=r"EarlyStopping.*src\.callbacks\.keras\.KerasCallback: see docs/own-"
    ):
        targets.resolve("keras.callbacks.EarlyStopping", group="callback", key="callback.x")


def write_notes(folder, text):
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.py").write_text(text)
    return ("+callback.notes._target_=mine.notes.notes", "+callback.notes.path=notes.txt")


def test_what_the_page_shows(tmp_path):
    words = write_notes(tmp_path, own_code()["mine/notes.py"])
    assert all(word in OWN_CODE.read_text() for word in words)
    done = train(*DIGITS, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"epoch 0: 0\.\d{3}\nepoch 1: 0\.\d{3}\n", (tmp_path / "notes.txt").read_text())


def test_one_that_fails_ends_the_run_or_is_a_warning(tmp_path):
    words = write_notes(tmp_path, own_code()["mine/notes.py"].replace("val_accuracy", "val_acuracy"))
    failed = train(*DIGITS, *words, cwd=tmp_path)
    assert failed.returncode == 1 and "KeyError: 'val_acuracy'" in failed.stderr
    folder = only_run(tmp_path / "outputs" / "digits")
    wrong = train(*DIGITS, *words, "may_fail=[note]", cwd=tmp_path)
    assert wrong.returncode == 2 and "may_fail has 'note'" in wrong.stderr and "Did you mean notes?" in wrong.stderr
    needed = train(*DIGITS, *words, "may_fail=[checkpoint]", cwd=tmp_path)
    assert needed.returncode == 2 and "may_fail has 'checkpoint'; it may have summaries" in needed.stderr
    done = train(*DIGITS, *words, "may_fail=[notes]", cwd=tmp_path)
    assert done.returncode == 0 and only_run(tmp_path / "outputs" / "digits") == folder, done.stderr
    assert done.stderr.count("callback notes failed in on_epoch_end: KeyError: 'val_acuracy'") == 2
    assert "notes.py" in done.stderr


def test_a_function_that_returns_one_of_keras_is_told_how_to_wrap_it(tmp_path):
    text = own_code()["mine/notes.py"].replace("KerasCallback(Notes(path))", "Notes(path)")
    refused = train(*DIGITS, *write_notes(tmp_path, text), cwd=tmp_path)
    assert refused.returncode == 2
    assert (
        "callback.notes (mine.notes.notes) makes a Notes, which is no src.training.callback.Callback" in refused.stderr
    )
    assert "src.callbacks.keras.KerasCallback" in refused.stderr

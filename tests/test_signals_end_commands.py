"""Commands with work in threads or processes of their own end within a moment of a signal, and leave nothing half done.

The work is stood in for: it would go on for a minute.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.inspection.predict_images import Writer
from tests.support.helpers import ROOT

SECONDS = 20.0  # where others use the cores; about 0.2 alone
MODEL_IS_READ = "import sys, types; sys.modules['tensorflow'] = types.ModuleType('tensorflow')"

VERIFY = f"""
{MODEL_IS_READ}
from src import verify_resume
from src.common.command import run_command
verify_resume.compose = lambda words: None
verify_resume.Record = lambda directory: types.SimpleNamespace(read=lambda: {{"step": 9, "epoch": 1}})
def command(overrides, directory, *more):
    works = "straight" not in str(directory) or "straight" in overrides
    code = "import os, pathlib, time; pathlib.Path(f'working-{{os.getpid()}}').touch(); time.sleep(60)"
    return [sys.executable, "-c", code if works else ""]
verify_resume.command = command
run_command(verify_resume.main)
"""
PREDICT = f"""
{MODEL_IS_READ}
import pathlib, time
import numpy as np
from src import predict
from src.inspection import predict_images
from src.common.command import run_command
answer = lambda images: (np.zeros([len(images), 8, 8, 2], np.float32), np.zeros([len(images), 8, 8], np.int32))
predict.load_model = lambda folder: predict_images.Model(answer, None, 3, 2, None)
def image(reading, file):
    pathlib.Path(f"working-{{file.stem}}").touch()
    time.sleep(60)
predict_images.Reading.image = image
predict.find_run = lambda word: types.SimpleNamespace(directory=pathlib.Path("run"), values={{"class_names": []}})
run_command(predict.main)
"""


def end(program: str, *arguments: str, workers: int, cwd: Path) -> float:
    """Run a program until so many work, send it SIGTERM; returns the seconds until it has ended."""
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while len(list(cwd.glob("working-*"))) < workers and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    return time.monotonic() - began


@pytest.mark.parametrize(("overrides", "workers"), [([], 2), (["straight"], 1)], ids=["trials", "straight"])
def test_verify_resume_ends_with_its_children(tmp_path, monkeypatch, overrides, workers):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    seconds = end(VERIFY, *overrides, "--jobs=2", "--trials=9", workers=workers, cwd=tmp_path)
    left = list(tmp_path.glob("working-*"))
    assert seconds < SECONDS and len(left) == workers  # no other one has been started
    assert not any(Path("/proc", path.name.partition("-")[2]).exists() for path in left)
    assert not list(tmp_path.glob("verify_resume-*"))


def test_predict_ends_without_what_its_threads_do(tmp_path):
    (tmp_path / "run" / "saved_model" / "1").mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.zeros([8, 8, 3], np.uint8)).save(tmp_path / f"{number}.png")
    files = [f"{number}.png" for number in range(4)]
    assert end(PREDICT, "run", *files, "--output=out", workers=1, cwd=tmp_path) < SECONDS
    assert not list((tmp_path / "out").rglob("*.png"))


def test_a_picture_that_is_being_written_is_whole_and_no_other_follows(tmp_path, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def slowly(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
            began.set()
            go_on.wait()
            file.write(content[10:])

    monkeypatch.setattr(Path, "write_bytes", slowly)
    write = Writer(tmp_path, tmp_path, ["a", "b"])
    image, answer = np.zeros([8, 8, 3], np.uint8), (np.zeros([8, 8, 2], np.float32), np.zeros([8, 8], np.int32))
    thread = threading.Thread(target=write, args=(tmp_path / "1.png", image, answer))
    thread.start()
    began.wait()
    stopper = threading.Thread(target=write.stop)
    stopper.start()
    while not write.stopped:
        time.sleep(0.01)
    assert stopper.is_alive()
    go_on.set()
    stopper.join()
    (mask,) = tmp_path.rglob("*.png")
    assert mask.parent.name == "masks" and np.asarray(Image.open(mask)).shape == (8, 8)
    thread.join()
    assert list(tmp_path.rglob("*.png")) == [mask]

"""Kill runs in every way, and show that nothing is lost: kills, signals, saves, damage, export, starts, reuse, power.

    python -m benchmarks resume                     # all campaigns at full count: some hours on two cores
    python -m benchmarks resume kills signals       # some of them
    python -m benchmarks resume --share 0.1         # a tenth of each count
    python -m benchmarks resume power errors inodes # power cuts, failing writes: see power.py, errors.py

Ends with a table; exit code 1 if anything that is promised did not hold.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.campaigns import ALL_STATE, Campaigns, Tally, parser, run
from benchmarks.errors import errors, inodes
from benchmarks.pairs import BenchmarkError
from benchmarks.power import power
from src.common.logs import importing
from src.runs.record import Record
from src.verify_resume import command, compare, finish, newest_step, verify

LONG_EPOCHS = 4
JOBS = 2  # processes at a time

# Graph calls of seconds, so that waiting for the end of one would show.
LONG_CALLS = [
    *(override for override in ALL_STATE if not override.startswith("epochs=")),
    *("batch_size=2", "model.filters=64", f"epochs={LONG_EPOCHS}", "trainer.steps_per_call=100000"),
]


def main(argv: list[str]) -> int:
    """Run campaigns; returns the exit code."""
    made = parser("resume", __doc__, CAMPAIGNS)
    made.add_argument("--seed", type=int, default=0, help="of the moments of power cuts")
    made.add_argument("--without-fsync", action="store_true", help="the control of power: most trials must fail")
    arguments = made.parse_args(argv)
    cuts, campaign = CAMPAIGNS["power"]
    cut = functools.partial(campaign, seed=arguments.seed, without_fsync=arguments.without_fsync)
    return run({**CAMPAIGNS, "power": (cuts, cut)}, arguments)


def kills(folder: Path, count: int) -> Tally:
    """SIGKILL at random steps, two a trial; the final state must equal the straight run's bit for bit."""
    _fork_context()
    trials, printed = max(1, count // 2), io.StringIO()
    with contextlib.redirect_stdout(printed):
        failed = verify(ALL_STATE, folder, trials=trials, kills=2, every_steps=7, jobs=JOBS)
    *_, summary, lost = printed.getvalue().strip().splitlines()
    killed = int(re.search(r"(\d+) kills", summary)[1])
    return Tally("kills", trials, trials - failed, f"{killed} kills; {lost}")


def signals(folder: Path, count: int) -> Tally:
    """SIGINT, SIGTERM and SIGUSR1 at random moments of a run; no step lost, a quick end, equal bits at the end."""
    _fork_context()
    straight = folder / "straight" / "run"
    finish(LONG_CALLS, straight)
    generator = random.Random(0)
    kinds = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    record = Record(straight).read()
    assert record is not None
    # Most while training, some before it and some around its end, where the model is exported.
    moments = {"start": (None, 6.0), "training": (1, 0.6 * record["seconds"]), "end": (LONG_EPOCHS, 0.5)}
    chosen = generator.choices([*moments], weights=[1, 3, 1], k=count)
    plans = [
        (number, generator.choice(kinds), moments[moment][0], generator.uniform(0, moments[moment][1]))
        for number, moment in enumerate(chosen)
    ]

    def one(plan: tuple[int, signal.Signals, int | None, float]) -> tuple[str, float, list[str]]:
        number, kind, epoch, delay = plan
        directory = folder / f"signal-{number}" / "run"
        process = subprocess.Popen(command(LONG_CALLS, directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if epoch is not None:
            _wait_for(lambda: _epochs(directory) >= epoch or process.poll() is not None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        phase, sent = _phase(directory), time.monotonic()
        process.send_signal(kind)
        process.wait(60)
        seconds, wrong = time.monotonic() - sent, []
        record = Record(directory).read() if (directory / "run.json").exists() else None
        if process.returncode in (128 + kind, -kind):
            limit = 1 + _save_seconds(directory) if phase == "training" else 10
            wrong += [f"took {seconds:.1f} s while {phase}"] if seconds > limit else []
            if phase == "training" and record["status"] != "interrupted":
                wrong.append(f"status {record['status']}")
            if record and record["step"] != newest_step(directory):
                wrong.append(f"step {record['step']} recorded, {newest_step(directory)} saved")
        elif process.returncode:
            wrong.append(f"exit code {process.returncode}")
        finish(LONG_CALLS, directory)
        wrong += compare(directory, straight)
        shutil.rmtree(directory)
        return phase, seconds, wrong

    with ThreadPoolExecutor(JOBS) as pool:
        results = list(pool.map(one, plans))
    for number, (phase, _, wrong) in enumerate(results):
        if wrong:
            print(f"signal {number} ({plans[number][1].name} while {phase}): {', '.join(wrong)}")
    slowest = max([seconds for phase, seconds, _ in results if phase == "training"], default=0.0)
    phases = ", ".join(f"{phase} {n}" for phase, n in Counter(phase for phase, _, _ in results).items())
    held = sum(not wrong for _, _, wrong in results)
    return Tally(
        "signals", count, held, f"moments: {phases}; longest from signal to exit while training {slowest:.2f} s"
    )


def _epochs(directory: Path) -> int:
    log = directory / "train.log"
    return len(re.findall(r"INFO src.callbacks.progress: epoch", log.read_text())) if log.exists() else 0


def _phase(directory: Path) -> str:
    log = directory / "train.log"
    text = log.read_text() if log.exists() else ""
    if "INFO src.callbacks.export" in text:
        return "done"
    epochs = _epochs(directory)
    if epochs == LONG_EPOCHS:
        return "export"
    return "training" if epochs else "start"  # the first call, which traces, is part of the start


def _save_seconds(directory: Path) -> float:
    """How long the run took to save when it was interrupted: the log's last two times."""
    times = [float(m) for m in re.findall(r"saved \S+ckpt-\d+ in ([\d.]+) s", (directory / "train.log").read_text())]
    return times[-1] if times else 0.0


def saves(folder: Path, count: int) -> Tally:
    """SIGKILL while checkpoints are being saved, one after another."""
    context, generator = _fork_context(), random.Random(0)
    inside, held, most, landed, tried = context.Value("b", 0), 0, 0, 0, 0
    while landed < count and tried < 3 * count:
        tried += 1
        step, inside.value = newest_step_in(folder), 0
        child = context.Process(target=_save_for_ever, args=(folder, inside))
        child.start()
        _wait_for(lambda child=child, step=step: _newest_logged_step(folder) > step + 1 or not child.is_alive())
        if not _killed_inside(child, inside, delay=generator.random() * 0.05):
            continue
        landed += 1
        stems = {path.name.partition(".")[0].removesuffix("_temp") for path in folder.glob("ckpt-*")}
        most = max(most, len(stems))
        found = newest_step_in(folder)
        ok = child.exitcode == -signal.SIGKILL and found > step and len(stems) <= 2 + 1
        checker = context.Process(target=_check_saved, args=(folder, found))
        checker.start()
        checker.join()
        held += ok and checker.exitcode == 0
    return Tally(
        "saves", landed, held, f"kills inside a save; at most {most} checkpoints on disk, 2 to keep; none left _temp"
    )


def _save_for_ever(folder: Path, inside) -> None:
    """In a child: every weight of a checkpoint is its step."""
    import numpy as np

    from src.training.checkpoints import Checkpoints

    state = _small_state()
    checkpoints = Checkpoints(folder, max_to_keep=2)
    checkpoints.restore(state)
    for step in range(state.step + 1, 10**9):
        for variable in state.model.trainable_variables:
            variable.assign(np.full(variable.shape, step))
        state.count_steps(step - state.step)
        inside.value = 1
        checkpoints.save(state)
        inside.value = 0


def _check_saved(folder: Path, step: int) -> None:
    """In a child: the newest checkpoint is whole and of one step, and nothing else is left after the restore."""
    import numpy as np

    from src.training.checkpoints import Checkpoints

    state = _small_state()
    Checkpoints(folder, max_to_keep=2).restore(state)
    whole = state.step == step and all(np.all(v.numpy() == step) for v in state.model.trainable_variables)
    left = [path for path in folder.iterdir() if "temp" in path.name or "tmp" in path.name]
    os._exit(0 if whole and not left else 1)


def newest_step_in(folder: Path) -> int:
    """The step of the newest good checkpoint in a folder of checkpoints."""
    from src.training.manifest import newest_good, read_manifest

    prefix = newest_good(folder)
    return read_manifest(prefix)["step"] if prefix else 0


def _newest_logged_step(folder: Path) -> int:
    steps = [0]
    for path in folder.glob("ckpt-*.json"):
        with contextlib.suppress(OSError, ValueError):
            steps.append(json.loads(path.read_text())["step"])
    return max(steps)


def damage(folder: Path, count: int) -> Tally:
    """A file of the newest checkpoint flipped, cut, emptied or overwritten; it is named and the one before is used."""
    context = _fork_context()
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_damage, args=(folder, count, writer))
    child.start()
    child.join()
    if child.exitcode or not reader.poll():
        raise BenchmarkError("damage: the child failed")
    held, kinds = reader.recv()
    return Tally("damage", count, held, ", ".join(f"{kind} {n}" for kind, n in kinds.items()))


def _damage(folder: Path, count: int, results) -> None:
    import logging

    import numpy as np

    from src.training.checkpoints import Checkpoints

    messages = io.StringIO()
    logging.getLogger("src").addHandler(logging.StreamHandler(messages))
    logging.getLogger("src").propagate = False
    state, checkpoints = _small_state(), Checkpoints(folder, max_to_keep=3)
    for step in (1, 2, 3):
        for variable in state.model.trainable_variables:
            variable.assign(np.full(variable.shape, step))
        state.count_steps(step - state.step)
        checkpoints.save(state)
    generator, held, kinds = random.Random(0), 0, Counter()
    files = ["ckpt-3.data-00000-of-00001", "ckpt-3.index", "ckpt-3.json", "checkpoint"]
    for _ in range(count):
        name, how = generator.choice(files), generator.choice(["flip", "truncate", "empty", "garbage"])
        path = folder / name
        intact = path.read_bytes()
        path.write_bytes(damaged(intact, how, generator))
        messages.truncate(0)
        Checkpoints(folder).restore(state)
        expected = 3 if name == "checkpoint" else 2
        right = state.step == expected and all(np.all(v.numpy() == expected) for v in state.model.trainable_variables)
        named = name == "checkpoint" or ("ckpt-3 is damaged" in messages.getvalue() and name in messages.getvalue())
        held += right and named
        kinds[f"{how} {path.suffix.partition('-')[0] or 'state file'}"] += 1
        path.write_bytes(intact)
    results.send((held, dict(sorted(kinds.items()))))


def damaged(content: bytes, how: str, generator: random.Random) -> bytes:
    """A file's content with one bit flipped, its end cut off, emptied, or random."""
    changed = bytearray(content)
    if how == "flip":
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    elif how == "truncate":
        del changed[generator.randrange(len(changed)) :]
    else:
        changed = bytearray() if how == "empty" else bytearray(generator.randbytes(len(changed)))
    return bytes(changed)


def export(folder: Path, count: int) -> Tally:
    """SIGKILL during an export; what is at the version's path loads and gives the model's own bits, or is not there."""
    context, generator = _fork_context(), random.Random(0)
    inside, held, found, landed, tried = context.Value("b", 0), 0, 0, 0, 0
    while landed < count and tried < 3 * count:
        tried += 1
        base = folder / f"export-{tried}"
        child = context.Process(target=_export_for_ever, args=(base, inside))
        inside.value = 0
        child.start()
        _wait_for(lambda child=child: bool(inside.value) or not child.is_alive())
        if not _killed_inside(child, inside, delay=generator.random() * 0.5):
            continue
        landed += 1
        visible = [path.name for path in base.iterdir() if not path.name.startswith(".")] if base.exists() else []
        if visible:
            found += 1
            checker = context.Process(target=_check_export, args=(base,))
            checker.start()
            checker.join()
        held += visible in ([], ["1"]) and (not visible or checker.exitcode == 0)
        shutil.rmtree(base, ignore_errors=True)
    return Tally("export", landed, held, f"kills inside an export; {found} times a whole version was there")


def _export_for_ever(base: Path, inside) -> None:
    """In a child: the same model again and again."""
    from src.callbacks.export import export as export_model

    model = _small_state().model
    base.mkdir(parents=True)
    (base / ".outputs").write_bytes(_outputs(model))
    while True:
        inside.value = 1
        export_model(model, base / "1")
        inside.value = 0


def _check_export(base: Path) -> None:
    import numpy as np
    import tensorflow as tf

    serve = tf.saved_model.load(str(base / "1")).signatures["serving_default"]
    logits = serve(image=tf.constant(np.arange(192, dtype=np.uint8).reshape(3, 8, 8, 1)))["logits"]
    os._exit(0 if logits.numpy().tobytes() == (base / ".outputs").read_bytes() else 1)


def _outputs(model) -> bytes:
    import numpy as np
    import tensorflow as tf

    from src.callbacks.export import serving_function

    serve = serving_function(model, model.input_shape[1:])
    return serve(tf.constant(np.arange(192, dtype=np.uint8).reshape(3, 8, 8, 1)))["logits"].numpy().tobytes()


def starts(folder: Path, count: int) -> Tally:
    """Processes that start the same config at once: one trains, the others say so, or wait for its result."""
    held, remarks = 0, []
    for wait in ("false", "true"):
        overrides = [*ALL_STATE, f"seed={7 if wait == 'true' else 8}", f"wait={wait}"]
        line = [sys.executable, "-m", "src.train", *overrides]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        options = {
            "cwd": folder,
            "env": environment,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        processes = [subprocess.Popen(line, **options) for _ in range(count)]
        ended = [(*process.communicate(), process.returncode) for process in processes]
        trained = sum("exported" in errors for _, errors, _ in ended)
        refused = sum("is in use by process" in errors and code == 1 for _, errors, code in ended)
        reused = sum("already completed, reused" in output and code == 0 for output, _, code in ended)
        expected = reused if wait == "true" else refused + reused
        held += trained == 1 and expected == count - 1
        remarks.append(f"wait={wait}: {trained} trained, {refused} refused, {reused} reused")
    directories = len(list(folder.glob("outputs/digits/*/run.json")))
    return Tally("starts", 2, held if directories == 2 else 0, f"{count} at once; {'; '.join(remarks)}")


def reuse(folder: Path, count: int) -> Tally:
    """A completed run's command: its recorded result in under 1.5 s, without TensorFlow."""
    directory = folder / "run"
    finish(ALL_STATE, directory)
    seconds, held = [], 0
    for _ in range(count):
        began = time.monotonic()
        found = subprocess.run(
            [sys.executable, "-X", "importtime", *command(ALL_STATE, directory)[1:]], capture_output=True, text=True
        )
        seconds.append(time.monotonic() - began)
        quick = seconds[-1] < 1.5 and found.returncode == 0 and "reused" in found.stdout
        held += quick and not re.search(r"\| +(tensorflow|keras)\b", found.stderr)
    return Tally("reuse", count, held, f"median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")


def _small_state():
    import keras

    from src.models.cnn import cnn
    from src.training.learner import Supervised
    from src.training.state import TrainState

    keras.utils.set_random_seed(0)
    with importing():  # the first op of a process says that it found no GPU
        model = cnn(input_shape=(8, 8, 1), num_classes=10, dropout=0.2)
    return TrainState(
        learner=Supervised(model=model, optimizer=keras.optimizers.Adam(), loss=keras.losses.MeanSquaredError())
    )


def _fork_context():
    """Import TensorFlow quietly; children forked from here need not import it again, as the parent runs no op."""
    with importing():
        import tensorflow  # noqa: F401

        import src.callbacks.export
        import src.training.checkpoints  # noqa: F401
    return multiprocessing.get_context("fork")


def _killed_inside(child, inside, *, delay: float) -> bool:
    """Kill a child after a delay; whether it was then inside what the campaign is about."""
    time.sleep(delay)
    was_inside = bool(inside.value)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return was_inside


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError("a child did not get where it should")
        time.sleep(0.002)


CAMPAIGNS: Campaigns = {
    "kills": (100, kills),
    "signals": (50, signals),
    "saves": (300, saves),
    "damage": (500, damage),
    "export": (100, export),
    "starts": (20, starts),
    "reuse": (20, reuse),
    "power": (50, power),
    "errors": (600, errors),
    "inodes": (20, inodes),
}

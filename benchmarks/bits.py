"""The same bits as an earlier commit: variables, history and events of small runs, its code against this one's.

    python -m benchmarks bits 0be0405
    python -m benchmarks bits 0be0405 dropout branch        # some of the configs
    python -m benchmarks bits 0be0405 --record              # if all is equal, say so in src/runs/same_code.txt
    differences = compare_trees(old_tree, ROOT, CONFIGS, folder)

The commit is checked out beside, each config is trained once by it and once by the files that are here, on this machine
with one thread, and all numbers are compared: SHA-256 of each tensor of the newest and the best checkpoint, each value
of history.jsonl but seconds, each scalar of the event files but steps_per_second. What is new is listed and no
difference; what is gone is one. Exit code 1 if anything differs for no reason that KNOWN names.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pairs import ROOT, BenchmarkError, table
from src.common.logs import importing
from src.config.origins import leaves
from src.runs.record import Record
from src.training.manifest import newest_good, read_manifest

# Differences that are meant: (config, kind of result, key): why. `*` stands for any letters.
KNOWN: dict[tuple[str, str, str], str] = {
    ("*", "events", "* learning_rate step *"): "it is the rate of the step taken; it was the next one's",
    ("*", "events", ". best*"): "HParams' numbers are written in the monitored split; they had a folder of their own",
}

_DIGITS = ("data=digits", "model=cnn", "model.filters=4", "model.dense=8", "batch_size=128", "epochs=2")
_SCENES = ("data=digit_scenes", "model=unet", "model.depth=1", "model.filters=4", "data.limit=0.05", "epochs=2")
_LABELS = ("data=tfds", "data.dataset=labels", "model=mlp", "model.hidden_units=[8]", "batch_size=8", "epochs=2")
CONFIGS: dict[str, tuple[str, ...]] = {
    "dropout": (*_DIGITS, "model.dropout=0.3", "optimizer=sgd", "callback=early_stopping"),
    "averages": (*_DIGITS, "model.batch_norm=true", "optimizer=adamw", "+optimizer.use_ema=true"),
    "clipping": (*_DIGITS, "trainer.clip_norm=0.1", "schedule=one_cycle", "schedule.peak_fraction=0.3"),
    "accumulation": (*_DIGITS, "trainer.gradient_accumulation_steps=4", "optimizer=lion"),
    "float16": (*_DIGITS, "precision=mixed_float16", "metric=classification"),
    "combo": (*_SCENES, "loss=combo", "data.transforms=null", "metric=segmentation_full"),
    "shift": (*_SCENES, "model.dropout=0.2"),
    "tfds": _LABELS,
    "lazy": (*_LABELS, "data.max_memory_gib=0.000001", "data.transforms.flip={_target_: src.data.transforms.Flip}"),
    "stream": (*_SCENES, "data.in_memory=false"),
    "validate_every_steps": (*_DIGITS, "trainer.validate_every_steps=3", "schedule=reduce_on_plateau"),
    "branch": ("resume=dropout", "epochs=3", "optimizer.learning_rate=0.02"),  # of the run of that name
}
# One thread, and graph calls of the same steps however fast the machine is.
ALIKE = (
    *("trainer.threads=1", "trainer.steps_per_call=5", "log_every_steps=5", "callback.summaries.graph=false"),
    *("~callback.images", "~callback.export", "~callback.progress"),
)
# Each line is a program, its arguments and working directory, run in a fork that need not import TensorFlow.
SERVER = """
import json, os, sys, traceback
import keras, tensorflow
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.chdir(request["cwd"])
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1), os.dup2(log, 2)
            sys.argv = ["-c", *request["arguments"]]
            exec(request["program"], {"__name__": "__main__"})
            code = 0
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code if isinstance(code, int) else int(code is not None))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
TRAIN = "import runpy; runpy.run_module('src.train', run_name='__main__', alter_sys=True)"
# By the writer that is here, since older commits have theirs elsewhere.
WRITER = ROOT / "tests" / "support" / "prepared.py"
PREPARE = "import runpy, sys; from pathlib import Path; runpy.run_path(sys.argv[2])['write_labels'](Path(sys.argv[1]))"

Results = dict[str, dict[str, Any]]  # variables, history, events: a value for each key


class Differences(NamedTuple):
    """Of one kind of a config's results: keys whose values differ or are gone, and keys that are new."""

    keys: list[str]
    new: list[str]
    known: dict[str, str]  # what differs for a reason, with it


def main(argv: list[str]) -> int:
    """Compare with the commit named; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bits", description=__doc__.partition("\n")[0])
    parser.add_argument("commit", help="whose code is compared with the files that are here")
    parser.add_argument("configs", nargs="*", metavar="config", help=f"of {', '.join(CONFIGS)}; all by default")
    parser.add_argument("--record", action="store_true", help="where all is equal, runs of that code ask nobody")
    arguments = parser.parse_args(argv)
    if arguments.record and arguments.configs:
        parser.error("--record wants all configs")
    if unknown := set(arguments.configs) - set(CONFIGS):
        parser.error(f"unknown {', '.join(unknown)}; there is {', '.join(CONFIGS)}")
    chosen = arguments.configs or list(CONFIGS)
    chosen = [name for name in CONFIGS if name in chosen or (name == "dropout" and "branch" in chosen)]
    with tempfile.TemporaryDirectory(prefix="bits-") as folder, checked_out(arguments.commit) as tree:
        found = compare_trees(tree, ROOT, {name: CONFIGS[name] for name in chosen}, Path(folder))
        print("\n".join(report(found)), flush=True)
        differs = any(of_kind.keys for of_config in found.values() for of_kind in of_config.values())
        if arguments.record and not differs:
            from benchmarks import same_code

            # Of both, since what has moved has another key in each.
            records = [Record(Path(folder, side, name)).read() or {} for side in ("old", "new") for name in chosen]
            same_code.add(tree, {key for record in records for key in record["fingerprints"]["code"]})
    return int(differs)


@contextlib.contextmanager
def checked_out(commit: str, folder: Path | None = None) -> Iterator[Path]:
    """A folder with the files of a commit, for as long as it is needed.

    Args:
        folder: a new one; one for temporary files by default.

    Raises:
        BenchmarkError: there is no such commit, or no git.
    """

    def git(*words: str | Path) -> None:
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
        if done.returncode:
            raise BenchmarkError(f"git {' '.join(map(str, words))}: {done.stderr.strip()}")

    with tempfile.TemporaryDirectory(prefix="commit-") as temporary:
        tree = folder or Path(temporary, "tree")
        git("worktree", "add", "--detach", tree, commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", tree)


def compare_trees(
    old: Path, new: Path, configs: Mapping[str, Sequence[str]], folder: Path
) -> dict[str, dict[str, Differences]]:
    """Train each config by the code of two folders, and compare; by config and kind of result.

    Args:
        configs: overrides by name; a run's directory is its name, so `resume=<name>` branches from an earlier one.
        folder: an empty one, for the runs.

    Raises:
        BenchmarkError: a run failed.
    """
    sides = {"old": old, "new": new}
    with ThreadPoolExecutor(len(sides)) as pool:
        jobs = [pool.submit(_train, tree, configs, folder / side) for side, tree in sides.items()]
        for job in jobs:
            job.result()
    return {
        name: compare(results(folder / "old" / name), results(folder / "new" / name), config=name) for name in configs
    }


def _train(tree: Path, configs: Mapping[str, Sequence[str]], folder: Path) -> None:
    sets = folder / "sets"
    sets.mkdir(parents=True)
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        **{"TF_CPP_MIN_LOG_LEVEL": "2", "TFDS_DATA_DIR": str(sets), "XDG_CACHE_HOME": str(folder / "cache")},
        **{"PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": "-1"},
    }
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=tree,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin and server.stdout

    def run(name: str, program: str, arguments: Sequence[str]) -> None:
        log = folder / f"{name}.txt"
        request = {"program": program, "arguments": arguments, "cwd": str(folder), "log": str(log)}
        print(json.dumps(request), file=server.stdin, flush=True)
        if (code := server.stdout.readline().strip()) != "0":
            said = "\n".join(log.read_text().splitlines()[-20:]) if log.exists() else ""
            raise BenchmarkError(f"{name}, by the code of {tree}, ended with {code or 'nothing'}\n{said}")

    with server:
        if any("data=tfds" in overrides for overrides in configs.values()):
            run("sets", PREPARE, [str(sets), str(WRITER)])
        for name, overrides in configs.items():
            run(name, TRAIN, [*overrides, *ALIKE, f"hydra.run.dir={name}"])
        server.stdin.close()


def results(run: Path) -> Results:
    """All numbers of a finished run that its config decides."""
    history = {
        f"epoch {line['epoch']} {key}": value
        for line in Record(run).history()
        for key, value in line.items()
        if key != "seconds"
    }
    return {"variables": _variables(run), "history": history, "events": _events(run)}


def _variables(run: Path) -> dict[str, str]:
    """SHA-256 of each tensor of the newest and the best checkpoint, by the name of its variable."""
    with importing():
        import tensorflow as tf

    hashes: dict[str, str] = {}
    for folder in ("checkpoints", "checkpoints/best"):
        prefix = newest_good(run / folder)
        if prefix is None:
            raise BenchmarkError(f"{run} has nothing in {folder}")
        reader = tf.train.load_checkpoint(str(prefix))
        for group, variables in read_manifest(prefix)["variables"].items():
            for number, (name, *_) in enumerate(variables):
                value = reader.get_tensor(f"{group}/{number}/.ATTRIBUTES/VARIABLE_VALUE")
                key = f"{folder} {group} {name}"
                key = f"{key} ({number})" if key in hashes else key
                hashes[key] = hashlib.sha256(f"{value.dtype} {value.shape} ".encode() + value.tobytes()).hexdigest()
        progress = json.loads(reader.get_tensor("progress/.ATTRIBUTES/VARIABLE_VALUE"))
        hashes |= {f"{folder} progress {'.'.join(path)}": repr(value) for path, value in leaves(progress)}
    return hashes


def _events(run: Path) -> dict[str, float]:
    """Each scalar by split, tag and step."""
    with importing():
        from src.callbacks.summaries import read_scalars

    return {
        f"{split or '.'} {tag} step {step}": value
        for (split, tag), points in read_scalars(run / "summaries").items()
        for step, value in points
        if tag != "steps_per_second"
    }


def compare(old: Results, new: Results, *, config: str = "") -> dict[str, Differences]:
    """What differs between two runs' results, by kind; `config` is their name in KNOWN."""
    found = {}
    for kind, before in old.items():
        after = new[kind]
        different = [key for key, value in before.items() if key not in after or not _same(value, after[key])]
        known = {key: why for key in different if (why := _why(config, kind, key))}
        found[kind] = Differences(
            keys=[key for key in different if key not in known],
            new=[key for key in after if key not in before],
            known=known,
        )
    return found


def _why(*place: str) -> str | None:
    return next((why for patterns, why in KNOWN.items() if all(map(fnmatchcase, place, patterns))), None)


def _same(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or one == other


def report(found: Mapping[str, Mapping[str, Differences]]) -> list[str]:
    """The table, and below it the first key of each difference, what is new, and the reasons of what is known."""
    rows, notes, new, known = [["config", "variables", "history", "events"]], [], {}, {}
    for config, kinds in found.items():
        cells = []
        for kind, (keys, added, reasons) in kinds.items():
            cells.append("differs" if keys else "known" if reasons else "equal")
            if keys:
                notes.append(f"{config}, {kind}: {keys[0]} differs" + (f", and {len(keys) - 1} more" * (len(keys) > 1)))
            new |= {f"{kind}: {_tag(key)}": None for key in added}
            known |= {f"{kind}: {_tag(key)}: {why}": None for key, why in reasons.items()}
        rows.append([config, *cells])
    notes += [f"known, {line}" for line in known] + [f"new, {line}" for line in new]
    return [table(rows), *notes]


def _tag(key: str) -> str:
    """A key without its epoch or step."""
    return " ".join(word for word in key.split() if not word.isdigit() and word not in ("epoch", "step"))

"""A run whose code or files have changed since is asked about: real commands, with models of a user's own."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.helpers import ROOT, run_module, train

TINY = (
    *("data=digits", "model=mlp", "epochs=2", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"),
    *(f"~callback.{name}" for name in ("images", "summaries", "export", "hparams")),
)
MINE = (*TINY, *(f"~model.{key}" for key in ("hidden_units", "dropout", "normalization", "activation")))
NET = "model._target_=mine.models.net"

# What no reader of this code can tell without running it.
MODEL = """
import concurrent.futures, importlib, importlib.util, pickle
from pathlib import Path
import keras
import numpy as np

HERE = Path(__file__).parent

def net(*, input_shape, num_classes):
    late = importlib.import_module("mine." + "late".lower())
    size = late.SIZE + pickle.loads((HERE / "deep" / ("size" + ".pkl")).read_bytes())
    size += len((HERE.parent / ("words" + ".txt")).read_text().split())
    spec = importlib.util.spec_from_file_location("any", HERE.parent / ("plug" + "in.py"))
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    scope = {}
    exec((HERE.parent / ("script" + ".txt")).read_text(), scope)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        size += sum(array.size for array in pool.map(np.load, [HERE.parent / ("a" + "b.npy")]))
    size += plugin.SIZE + scope["SIZE"] + len(sorted(Path("shapes").glob("*.txt")))
    (HERE.parent / ("log" + ".txt")).write_text(str(size))
    (HERE.parent / ("log" + ".txt")).read_text()
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(size)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))
"""
FILES = {
    "mine/__init__.py": b"",
    "mine/models.py": MODEL.encode(),
    "mine/late.py": b"from mine.later import SIZE\n",
    "mine/later.py": b"SIZE = 1\n",
    "mine/deep/size.pkl": pickle.dumps(1),
    "words.txt": b"one",
    "plugin.py": b"SIZE = 1\n",
    "script.txt": b"SIZE = 1\n",
    "ab.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n1",
    "shapes/a.txt": b"",
    "log.txt": b"",
    "bystander.py": b"",
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a user's package, and a run of its model."""
    folder = tmp_path_factory.mktemp("user")
    write(folder, FILES)
    found = train(*MINE, NET, cwd=folder)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("mine/models.py", MODEL.replace("Flatten()", "Flatten(name='x')").encode(), "code mine.models"),
        ("mine/late.py", b"SIZE = 2\n", "code mine.late"),
        ("mine/later.py", b"SIZE = 2\n", "code mine.later"),
        ("mine/deep/size.pkl", pickle.dumps(2), "file mine/deep/size.pkl"),
        ("words.txt", b"two words", "file words.txt"),
        ("plugin.py", b"SIZE = 2\n", "file plugin.py"),
        ("script.txt", b"SIZE = 2\n", "file script.txt"),
        ("ab.npy", FILES["ab.npy"].replace(b"\n1", b"\n2"), "file ab.npy"),
        ("shapes/b.txt", b"", "file shapes/*"),
        ("mine/models.py", b"# so\n" + MODEL.encode(), None),
        ("plugin.py", b"# so\nSIZE = 1\n", None),
        ("log.txt", b"changed", None),
        ("bystander.py", b"changed", None),
    ],
)
def test_what_a_run_imported_and_read_is_asked_about(trained, file, content, named):
    (trained / file).write_bytes(content)
    found = train(*MINE, NET, cwd=trained)
    (trained / file).unlink()
    write(trained, FILES)
    if named:
        assert found.returncode == 1 and f"was computed before a change of {named}" in found.stderr, found.stderr
    else:
        assert found.returncode == 0 and "already completed, reused" in found.stdout, found.stderr


def test_a_module_in_a_folder_that_the_code_adds_to_the_search_path_is_followed_there(tmp_path):
    model = """
import importlib, sys
from pathlib import Path
from src.models.mlp import mlp

def net(**options):
    sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))
    return mlp(**options, hidden_units=[importlib.import_module("help" + "er").SIZE])
"""
    write(tmp_path, {"mine/__init__.py": b"", "mine/models.py": model.encode(), "lib/helper.py": b"SIZE = 3\n"})
    assert train(*MINE, NET, cwd=tmp_path).returncode == 0
    found = train(*MINE, NET, cwd=tmp_path)
    assert "already completed, reused" in found.stdout, found.stderr
    (tmp_path / "lib/helper.py").write_text("SIZE = 4\n")
    assert "before a change of file lib/helper.py" in train(*MINE, NET, cwd=tmp_path).stderr


@pytest.mark.exhaustive
def test_a_run_that_ended_half_way_does_not_go_on_with_other_code(tmp_path):
    write(tmp_path, {"mine/__init__.py": b"", "mine/models.py": b"from src.models.mlp import mlp as net\n"})
    fault = (
        "+callback.fault._target_=tests.support.faults.Fault",
        "+callback.fault.kind=once",
        "+callback.fault.marker=there",
    )
    command = (*TINY, NET, *fault, "callback.checkpoint.every_steps=1")
    assert train(*command, cwd=tmp_path).returncode == 1
    (tmp_path / "mine/models.py").write_text("from src.models.mlp import mlp\nnet = mlp\n")
    found = train(*command, cwd=tmp_path)
    assert found.returncode == 1 and "(failed) was computed before a change of code mine.models" in found.stderr
    (tmp_path / "mine/models.py").write_text("# as before\nfrom src.models.mlp import mlp as net\n")
    found = train(*command, cwd=tmp_path)
    assert found.returncode == 0 and "continuing after step" in found.stderr, found.stderr


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("src/models/mlp.py", "import keras", "# why\nimport keras", None),
        ("src/training/trainer.py", '"""', '"""In other words: ', None),
        ("src/data/digit_scenes/scenes.py", "0.35", "0.36", None),
        ("src/data/digit_scenes/builder.py", "import io", "import io\nX = 1", None),
        ("src/data/sources.py", "def digit_scenes(", "def digit_scenes(x=1, ", None),
        ("src/losses.py", "import math", "import math\nX = lambda: 1", None),
        ("src/models/mlp.py", "keras.Input(", "keras.Input(name='x', shape=", "code src.models.mlp"),
        ("src/data/digit_scenes/digits.py", "255.0", "254.0", "code src.data.digit_scenes.digits"),
        ("src/data/sources.py", "num_classes=10", "num_classes=11", "code src.data.sources.digits"),
        ("src/training/trainer.py", "import math", "import math\nX = 1", "the project's own code"),
    ],
)
def test_of_the_project_only_what_a_run_reaches_is_asked_about(digits_run, copy, file, old, new, named):
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    found = run_module("src.train", *TINY, cwd=digits_run, PYTHONPATH=str(copy))
    (copy / file).write_text(text)
    if named:
        assert found.returncode == 1 and f"was computed before a change of {named}. " in found.stderr, found.stderr
    else:
        assert found.returncode == 0 and "already completed, reused" in found.stdout, found.stderr


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    found = train(*TINY, cwd=folder)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project in another place, to be changed."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("src", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_what_cannot_be_followed_is_said(tmp_path):
    text = "import subprocess\nfrom src.models.mlp import mlp\ndef net(**options):\n"
    text += "    subprocess.run(['true'])\n    return mlp(**options)\n"
    text += "def other(path):\n    return tf.io.read_file(path)\n"
    write(tmp_path, {"mine/__init__.py": b"", "mine/models.py": text.encode()})
    found = train(*TINY, NET, cwd=tmp_path)
    told = (
        "a change of this is not noticed by itself: mine.models starts a program; mine.models reads files by read_file"
    )
    assert found.returncode == 0 and found.stderr.count(told) == 1, found.stderr


@pytest.mark.sample(1)
@pytest.mark.parametrize("layout", ["mapped", "flat"])
def test_a_package_that_is_installed_to_be_edited_counts(tmp_path, layout):
    """`pip install -e`: a folder in sys.path, or a finder of imports where names and folders differ."""
    where = {"flat": "edited", "mapped": "lib"}[layout]
    mapping = '[tool.setuptools]\npackages = ["edited"]\npackage-dir = {edited = "lib"}\n' * (layout == "mapped")
    build = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    project = f'{build}[project]\nname = "edited"\nversion = "1"\n{mapping}'
    write(tmp_path, {"pyproject.toml": project.encode(), f"{where}/__init__.py": b"", f"{where}/net.py": b"x = 1\n"})
    options = ("--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--prefix", str(tmp_path / "prefix"))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "-e", str(tmp_path)], check=True)
    site = next((tmp_path / "prefix").rglob("site-packages"))
    code = (
        f"import json, site; site.addsitedir({str(site)!r}); from src.runs.provenance import fingerprints\n"
        "print(json.dumps(fingerprints({'model': {'_target_': 'edited.net.x'}})['code']))"
    )

    def hashes():
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        return json.loads(subprocess.run(command, env=env, cwd="/", capture_output=True, check=True).stdout)

    before = hashes()
    (tmp_path / where / "net.py").write_text("x = 2\n")
    after = hashes()
    assert [key for key in before if before[key] != after[key]] == ["edited.net"]


def test_code_that_came_to_nothing_is_not_recorded_as_what_computed(tmp_path):
    """A run that cannot be built any more keeps the fingerprints and the kept code of what trained it."""
    net = "import keras\n\ndef net(*, input_shape, num_classes):\n"
    layers = "[keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(num_classes)]"
    good = f"    return keras.Sequential({layers})\n"
    write(tmp_path, {"mine/__init__.py": b"", "mine/models.py": (net + good).encode()})
    done = train(*MINE, NET, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/digits/*/run.json")
    before, kept = json.loads(path.read_text()), sorted(path.parent.glob("code/*"))
    path.write_text(json.dumps({**before, "status": "interrupted", "epoch": 1}))
    write(tmp_path, {"mine/models.py": (net + "    raise ValueError(num_classes)\n").encode()})
    failed = train(*MINE, NET, "stale=reuse", cwd=tmp_path)
    after = json.loads(path.read_text())
    assert failed.returncode != 0 and after["status"] == "failed", failed.stderr
    assert after["fingerprints"] == before["fingerprints"] and kept == sorted(path.parent.glob("code/*"))


WAITING = """
import time
from pathlib import Path
from src.models.mlp import mlp

def net(**options):
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.02)
    return mlp(**options, hidden_units=[2])
"""


def test_each_job_of_a_sweep_is_fingerprinted_with_the_code_that_it_trains_with(tmp_path):
    """A model is edited while the first of four jobs builds it, and the others wait."""
    write(tmp_path, {"mine/__init__.py": b"", "mine/models.py": WAITING.encode()})
    command = ("--multirun", *MINE, NET, "seed=0,1,2,3", "hydra.launcher.n_jobs=1")
    with ThreadPoolExecutor() as pool:
        sweep = pool.submit(train, *command, cwd=tmp_path)
        while not (tmp_path / "begun").exists() and not sweep.done():
            time.sleep(0.02)
        (tmp_path / "mine/models.py").write_text(edited := WAITING.replace("hidden_units=[2]", "hidden_units=[3]"))
        (tmp_path / "go").touch()
    assert sweep.result().returncode == 0, sweep.result().stderr
    paths = sorted(tmp_path.glob("outputs/digits/*/run.json"), key=lambda path: json.loads(path.read_text())["seed"])
    records = [json.loads(path.read_text()) for path in paths]
    first, *others = [(record["parameters"], record["fingerprints"]["code"]["mine.models"]) for record in records]
    assert [first[0], *(found for found, _ in others)] == [64 * n + n + n * 10 + 10 for n in (2, 3, 3, 3)]
    assert len({first[1], *(code for _, code in others)}) == 2
    kept = [(path.parent / "code/elsewhere/mine/models.py").read_text() for path in paths]
    assert kept == [WAITING, *[edited] * 3]

    asked = train(*command, cwd=tmp_path)
    told = f"job 1 of 4: run {records[0]['id']} (completed) was computed before a change of code mine.models"
    assert asked.returncode == 1 and told in asked.stderr and "jobs more" not in asked.stderr, asked.stderr
    redone = train(*command, "stale=rerun", "dry_run=true", cwd=tmp_path)
    assert redone.stdout.count("starts afresh") == 1 and redone.stdout.count("is completed") == 3, redone.stdout

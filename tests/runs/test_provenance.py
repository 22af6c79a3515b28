"""What a result comes from: which files count, and what a change of them is called."""

import json
import os
import subprocess
import sys

import pytest

from src.runs import provenance
from src.runs.provenance import differences, fingerprints
from tests.helpers import ROOT

MODEL = {"model": {"_target_": "mine.model"}}


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    """A module of the user's in the working directory, which imports another one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from parts.layers import block\nimport numpy\ndef model(): return block\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").touch()
    (tmp_path / "parts" / "layers.py").write_text(
        "from . import sizes\nfrom .deep.sums import total\ndef block(): pass\n"
    )
    (tmp_path / "parts" / "sizes.py").write_text("SIZE = 3\n")
    (tmp_path / "parts" / "deep").mkdir()
    (tmp_path / "parts" / "deep" / "sums.py").write_text("from ..ends import END\ntotal = 1\n")
    (tmp_path / "parts" / "ends.py").write_text("END = 3\n")
    (tmp_path / "bystander.py").write_text("raise SystemExit\n")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("mine.py", "def model(): return 2\n", ["mine.py"]),
        ("parts/layers.py", "def block(): return 2\n", ["layers.py"]),
        ("parts/sizes.py", "SIZE = 4\n", ["sizes.py"]),
        ("parts/deep/sums.py", "total = 2\n", ["sums.py"]),
        ("parts/ends.py", "END = 4\n", ["ends.py"]),
        ("parts/weights.npz", "new", ["weights.npz"]),
        ("bystander.py", "changed = True\n", []),
        ("notes.txt", "changed", []),
    ],
)
def test_a_computing_file_of_the_user_counts(user_code, file, content, named):
    before = fingerprints(MODEL)
    assert {"mine.py", "layers.py"} <= before["code"].keys() and "numpy" not in str(before["code"].keys())
    (user_code / file).write_text(content)
    assert fingerprints(MODEL) == before  # this process has read the old ones
    provenance.forget()
    changed = differences(before, fingerprints(MODEL))
    assert bool(changed) == bool(named) and all(any(name in text for text in changed) for name in named)
    assert all(text.startswith("code ") for text in changed)


def test_a_removed_file_is_named(user_code):
    before = fingerprints(MODEL)
    (user_code / "parts" / "layers.py").unlink()
    provenance.forget()
    assert any("layers.py" in text for text in differences(before, fingerprints(MODEL)))


def test_which_files_of_the_project_compute():
    targets = {
        "a": {"_target_": "src.models.cnn.cnn"},
        "b": [{"_target_": "src.callbacks.early_stopping.EarlyStopping"}],
    }
    code = fingerprints(targets | {"c": {"_target_": "src.callbacks.progress.Progress"}})["code"]
    computing = [
        "trainer",
        "build",
        "state",
        "models/cnn",
        "data/image_data",
        "data/pipeline",
        "callbacks/early_stopping",
    ]
    showing = [
        "config",
        "runs/lock",
        "runs/provenance",
        "checkpoints",
        "train",
        "callbacks/progress",
        "callbacks/summaries",
    ]
    assert {f"src/{name}.py" for name in computing} <= code.keys()
    assert not {f"src/{name}.py" for name in showing} & code.keys()
    assert not any("models/unet" in name or os.path.isabs(name) for name in code)


def test_data_files_beside_a_computing_module_count():
    code = fingerprints({"data": {"_target_": "src.data.sources.digits"}})["code"]
    assert any(name.endswith(".npz") for name in code)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder: (folder / "a" / "1.png").write_text("longer"), False),
        (lambda folder: os.utime(folder / "a" / "1.png", (1, 1)), False),
        (lambda folder: (folder / "a" / "1.png").rename(folder / "a" / "2.png"), False),
        (lambda folder: (folder / "a" / "3.png").touch(), False),
        (lambda folder: (folder / "a" / "1.png").unlink(), False),
        (lambda folder: (folder / "a" / "1.png").read_text(), True),
        (lambda folder: folder.rename(folder.with_name("moved")).rename(folder), True),
        (lambda folder: None, True),
    ],
    ids=["size", "time", "name", "new", "gone", "read", "moved", "nothing"],
)
def test_data_at_a_path_is_its_names_sizes_and_times(tmp_path, change, same):
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_text("one")
    config = {"data": {"path": str(folder), "dataset": "mine:1.0.0"}}
    before = fingerprints(config)
    assert before["data"]["dataset"] == "mine:1.0.0"
    change(folder)
    told = f"the files of data.path={folder} (names, sizes or times)"
    assert differences(before, fingerprints(config), path=str(folder)) == ([] if same else [told])


def test_data_behind_a_link_counts(tmp_path):
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "images").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(folder)
    config = {"data": {"path": str(folder)}}
    before = fingerprints(config)
    (elsewhere / "1.png").touch()
    assert differences(before, fingerprints(config)) == ["data path"]


def test_data_that_is_gone_is_said_to_be(tmp_path):
    (tmp_path / "image.png").touch()
    config = {"data": {"path": str(tmp_path / "image.png")}}
    before = fingerprints(config)
    (tmp_path / "image.png").unlink()
    told = f"data.path={tmp_path / 'image.png'}, where nothing is any more"
    assert differences(before, fingerprints(config), path=config["data"]["path"]) == [told]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ({"code": {"a": "1"}, "data": {}}, {"code": {"a": "1"}, "data": {}}, []),
        ({"code": {"b": "1", "a": "1"}, "data": {}}, {"code": {}, "data": {}}, ["code a", "code b"]),
        (
            {"code": {}, "data": {"dataset": "x:1"}},
            {"code": {"a": "1"}, "data": {"dataset": "x:2"}},
            ["code a", "data dataset"],
        ),
        ({}, {"code": {"a": "1"}, "data": {}}, ["code a"]),
    ],
)
def test_differences(old, new, named):
    assert differences(old, new) == named


def test_a_fingerprint_is_json_and_the_same_from_any_directory(tmp_path):
    config = {"model": {"_target_": "src.models.cnn.cnn"}}
    code = f"from src.runs.provenance import fingerprints; import json; print(json.dumps(fingerprints({config})))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == fingerprints(config)

"""What a result comes from: which code and files count, and what a change of them is called."""

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.common.code import reach
from src.data.images.files import SUFFIXES
from src.data.images.folder_layout import find_layout
from src.runs import input_files, provenance
from src.runs.input_files import comparable_data
from src.runs.provenance import COMPUTING, NOT_COMPUTING, PROJECT, changes, differences, fingerprints
from tests.runs.made import add_checkpoint, make_run
from tests.support.folders import write_classes
from tests.support.helpers import ROOT

MODEL = {"model": {"_target_": "mine.model"}}
NO_TEXT = os.fsdecode(b"\xff.png"), os.fsdecode(b"\xfe.png")


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    """A module of the user's in the working directory, which imports another one and names files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "mine.py": "from parts.layers import block\nimport numpy\ndef model(): return block\n",
        "parts/__init__.py": "",
        "parts/layers.py": "from .deep.sums import total\nTABLE = 'means.json'\ndef block(): pass\n",
        "parts/means.json": "[1]",
        "parts/deep/sums.py": "HERE = Path(__file__).parent / 'weights' / 'a.h5', '../near.txt'\ntotal = 1\n",
        "parts/deep/weights/a.h5": "1",
        "parts/near.txt": "1",
        "bystander.py": "raise SystemExit\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    provenance.forget()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("mine.py", "def model(): return 2\n", "code mine"),
        ("parts/__init__.py", "x = 1\n", "code parts"),
        ("parts/layers.py", "def block(): return 2\n", "code parts.layers"),
        ("parts/deep/sums.py", "total = 2\n", "code parts.deep.sums"),
        ("parts/means.json", "[2]", "file parts/means.json"),
        ("parts/deep/weights/a.h5", "2", "file parts/deep/weights/a.h5"),
        ("parts/near.txt", "2", "file parts/near.txt"),
        ("parts/deep/means.json", "2", None),
        ("bystander.py", "changed = True\n", None),
        ("notes.txt", "changed", None),
        (
            "mine.py",
            "# so\nfrom parts.layers import block\nimport numpy\n\ndef model():\n    'It.'\n    return block",
            None,
        ),
    ],
)
def test_a_computing_file_of_the_user_counts(user_code, file, content, named):
    before = fingerprints(MODEL)
    assert "numpy" not in str(before) and changes(before, MODEL) == []
    (user_code / file).write_text(content)
    assert fingerprints(MODEL)["code"] == before["code"]  # this process has read the old ones
    provenance.forget()
    changed = changes(before, MODEL)
    assert (changed[0] if changed else None) == named


def test_what_is_gone_or_new_is_said_to_be(user_code):
    before = fingerprints(MODEL)
    (user_code / "parts" / "means.json").unlink()
    (user_code / "parts" / "deep" / "sums.py").unlink()
    (user_code / "parts" / "layers.py").write_text("import bystander\nx = 'means.json'\n")
    provenance.forget()
    assert changes(before, MODEL) == [
        "code bystander (not there before)",
        "code parts.deep.sums (not there any more)",
        "code parts.layers",
        "file parts/means.json (not there any more)",
    ]


@pytest.mark.parametrize(
    ("key", "value", "counts"),
    [
        ("vocabulary", "words.txt", True),
        ("words", "words.txt", True),
        ("table", "{here}/words.txt", True),
        ("paths", ["words.txt"], True),
        ("deep", {"er": [{"x": "words.txt"}]}, True),
        ("image_dir", "photos", True),
        ("path", "photos", True),
        ("paths", ["photos"], True),
        ("path", {"train": "photos"}, True),
        ("folders", {"own": [{"train": "photos"}]}, True),
        ("activation", "photos", False),  # a word that a folder has for a name
        ("activation", "relu", False),
    ],
)
def test_a_file_that_the_config_names_counts(tmp_path, monkeypatch, key, value, counts):
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("a b")
    Path("photos").mkdir()
    Path("photos/1.png").write_text("1")
    node = {key: value.format(here=tmp_path) if isinstance(value, str) else value}
    config = {"data" if isinstance(value, dict) else "model": node}
    before = fingerprints(config)
    assert changes(before, config) == []
    Path("words.txt").write_text("b a")
    Path("photos/1.png").write_text("22")
    assert bool(changes(before, config)) == counts
    Path("words.txt").unlink()
    Path("photos/1.png").unlink()
    Path("photos").rmdir()
    assert [text.endswith("(not there any more)") for text in changes(before, config)] == [True] * counts


def test_a_file_at_home_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "words.txt").write_text("a")
    config = {"model": {"vocabulary": "~/words.txt"}}
    before = fingerprints(config)
    (tmp_path / "words.txt").write_text("b")
    assert changes(before, config) == [f"file {tmp_path}/words.txt"]


def test_what_of_the_project_every_run_goes_through():
    machinery = reach(COMPUTING, without=NOT_COMPUTING)
    computing = ["training.trainer", "training.learner", "build", "training.state", "data.data", "data.pipeline"]
    computing += ["training.accumulation"]
    showing = [
        "config",
        "runs.lock",
        "runs.provenance",
        "training.checkpoints",
        "train",
        "callbacks.progress",
        "models.cnn",
    ]
    assert {f"src.{name}" for name in computing} <= machinery.keys()
    assert not {f"src.{name}" for name in showing} & machinery.keys()


def test_which_options_of_the_project_count():
    targets = {
        "a": {"_target_": "src.models.cnn.cnn"},
        "b": [{"_target_": "src.callbacks.early_stopping.EarlyStopping"}],
        "c": {"_target_": "src.callbacks.progress.Progress"},
        "d": {"_target_": "src.losses.Tversky"},
    }
    code = fingerprints(targets)["code"]
    assert {
        PROJECT,
        "src.models.cnn",
        "src.models.parts",
        "src.callbacks.early_stopping",
        "src.losses.Tversky",
    } <= code.keys()
    others = ("src.models.unet", "src.callbacks.progress", "src.losses.CrossEntropy", "src.training.trainer")
    assert not set(others) & code.keys()


def test_a_run_of_digits_does_not_reach_the_scenes():
    digits, scenes = (
        fingerprints({"data": {"_target_": f"src.data.sources.{name}"}}) for name in ("digits", "digit_scenes")
    )
    assert digits["files"].keys() == {"src/data/digit_scenes/digits.npz"} == scenes["files"].keys()
    of_scenes = {"src.data.digit_scenes.scenes", "src.data.digit_scenes.builder", "src.data.sources.digit_scenes"}
    assert of_scenes <= scenes["code"].keys() and not of_scenes & digits["code"].keys()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder: (folder / "a" / "1.png").write_text("longer"), False),
        (lambda folder: os.utime(folder / "a" / "1.png", (1, 1)), False),
        (lambda folder: (folder / "a" / "1.png").rename(folder / "a" / "2.png"), False),
        (lambda folder: (folder / NO_TEXT[0]).rename(folder / NO_TEXT[1]), False),
        (lambda folder: (folder / "a" / "3.png").touch(), False),
        (lambda folder: (folder / "a" / "1.png").unlink(), False),
        (lambda folder: (folder / "a" / "1.png").read_text(), True),
        (lambda folder: folder.rename(folder.with_name("moved")).rename(folder), True),
        (lambda folder: None, True),
    ],
    ids=["size", "time", "name", "a name that is no text", "new", "gone", "read", "moved", "nothing"],
)
def test_data_at_a_path_is_its_names_sizes_and_times(tmp_path, change, same):
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_text("one")
    (folder / NO_TEXT[0]).write_text("two")
    config = {"data": {"path": str(folder), "dataset": "mine:1.0.0"}}
    before = fingerprints(config)
    assert before["data"]["dataset"] == "mine:1.0.0"
    change(folder)
    told = f"the files of data.path={folder} (names, sizes or times): 2 then, "
    assert [change[: len(told)] for change in changes(before, config)] == ([] if same else [told])


def test_data_behind_a_link_counts(tmp_path):
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "images").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(folder)
    config = {"data": {"path": str(folder)}}
    before = fingerprints(config)
    (elsewhere / "1.png").touch()
    assert changes(before, config)[0].startswith(f"the files of data.path={folder} (names, sizes or times): 0 then")


@pytest.fixture
def photos(tmp_path):
    write_classes(tmp_path / "photos", {"cats": 2, "dogs": 2})
    (tmp_path / "photos" / "notes.txt").write_text("of before")
    time.sleep(0.02)  # what changes from here on has a later time
    return tmp_path / "photos"


def of_images(folder) -> dict:
    return {"data": {"_target_": input_files.IMAGE_FOLDER, "path": str(folder)}}


def before_files_were_chosen(recorded) -> dict:
    """As earlier code recorded it: one hash of all that lies in the folder."""
    data = recorded["data"]
    return {**recorded, "data": {"path": data.get("path_of_all", data["path"])}}


PASSED_OVER = (
    ".DS_Store",
    "._000.png",
    ".thumbs/a.png",
    "Thumbs.db",
    "desktop.ini",
    "README.md",
    "all.zip",
    "x",
    ".png",
)


@pytest.mark.parametrize("name", [f"{part}{name}" for part in ("", "cats/") for name in PASSED_OVER])
def test_what_the_reader_of_a_folder_passes_over_changes_nothing(photos, name):
    seen, recorded = find_layout(photos).examples, fingerprints(of_images(photos))
    (photos / name).parent.mkdir(exist_ok=True)
    (photos / name).write_text("1")
    assert find_layout(photos).examples == seen
    assert changes(recorded, of_images(photos)) == []


@pytest.mark.parametrize("name", [*(f"cats/new{suffix}" for suffix in SUFFIXES), "cats/a/b.PNG", "classes.txt"])
def test_what_it_reads_is_named_where_it_is_new(photos, name):
    recorded = fingerprints(of_images(photos))
    (photos / name).parent.mkdir(exist_ok=True)
    (photos / name).write_text("1")
    told = f"the files of data.path={photos} (names, sizes or times): 4 then, 5 now, new or changed: {name}"
    assert changes(recorded, of_images(photos)) == [told]


def test_what_has_changed_in_a_folder_is_named_and_what_is_gone_counted(photos):
    recorded = fingerprints(of_images(photos))
    (photos / "cats" / "000.png").unlink()
    assert changes(recorded, of_images(photos))[0].endswith("): 4 then, 3 now")
    for name in ("cats/001.png", "dogs/000.png", "dogs/001.png"):
        (photos / name).write_text("other")
    named = "4 then, 3 now, new or changed: cats/001.png, dogs/000.png and 1 more"
    assert changes(recorded, of_images(photos))[0].endswith(named)


@pytest.mark.parametrize("name", [".DS_Store", "._1.png", "Thumbs.db"])
def test_what_file_managers_leave_counts_for_no_reader(photos, name):
    config = {"data": {"_target_": "mine.data", "path": str(photos)}}
    recorded = fingerprints(config)
    (photos / name).write_text("1")
    assert changes(recorded, config) == []
    (photos / "notes.txt").write_text("which this reader may read")
    assert changes(recorded, config)[0].endswith("5 then, 5 now, new or changed: notes.txt")


def test_a_run_of_before_is_known_by_all_files_and_asks_only_where_they_have_changed(photos):
    recorded = before_files_were_chosen(fingerprints(of_images(photos)))
    assert recorded["data"]["path"] == input_files._listing(photos)
    assert changes(recorded, of_images(photos)) == []
    (photos / "notes.txt").unlink()  # which this record cannot tell from an image
    assert changes(recorded, of_images(photos)) == [f"the files of data.path={photos} (names, sizes or times)"]


def test_it_is_compared_with_later_ones_too(photos):
    later = fingerprints(of_images(photos))
    before = before_files_were_chosen(later)
    (photos / ".DS_Store").touch()
    litter = fingerprints(of_images(photos))
    data = comparable_data([before, later, litter])
    assert data[0] == data[1] == data[2] == {"path": later["data"]["path"]} != before["data"]
    (photos / "cats" / "new.png").touch()
    assert comparable_data([later, fingerprints(of_images(photos))])[1] != data[1]


def test_data_that_is_gone_is_said_to_be(tmp_path):
    (tmp_path / "image.png").touch()
    config = {"data": {"path": str(tmp_path / "image.png")}}
    before = fingerprints(config)
    (tmp_path / "image.png").unlink()
    told = f"data.path={tmp_path / 'image.png'}, where nothing is any more"
    assert changes(before, config) == [told]


@pytest.mark.parametrize("key", ["init_from", "learner.teacher", "model.critic"])
def test_another_run_that_a_config_names_is_known_by_its_best_weights(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    teacher, best = make_run(Path("outputs/x"), 1), "checkpoints/best/ckpt-*"
    *above, last = key.split(".")
    config = functools.reduce(lambda inner, name: {name: inner}, reversed(above), {last: str(teacher)})
    before = fingerprints(config)
    assert list(before["files"]) == [f"{teacher}/{best}"]
    add_checkpoint(teacher / "checkpoints", 2)
    (teacher / "evaluation").mkdir()
    assert changes(before, config) == [], "it has been evaluated, and trained on without a better epoch"
    assert changes({**before, "files": {}}, config) == [], "as a record of before"
    shutil.rmtree(teacher / "checkpoints/best")
    add_checkpoint(teacher / "checkpoints/best", 2)
    assert changes(before, config) == [f"file {teacher}/{best}"]
    shutil.rmtree(teacher)
    assert changes(before, config) == [f"file {teacher}/{best} (not there any more)"]


def test_the_data_that_its_model_takes_words_from_count_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher, table = make_run(Path("outputs/x"), 1), {"_target_": "src.data.tables.table", "path": "a.csv"}
    Path("a.csv").write_text("word\ngood\n")
    (teacher / ".hydra/config.yaml").write_text(json.dumps({"data": table, "model": {"_partial_": True}}))
    config = {"init_from": str(teacher), "data": {**table, "path": "b.csv"}}
    before, of_the_same = fingerprints(config), fingerprints({**config, "data": table})
    assert "a.csv" in before["files"] and "a.csv" not in of_the_same["files"]
    Path("a.csv").write_text("word\nbad\n")
    assert changes(before, config) == ["file a.csv"]
    (teacher / ".hydra/config.yaml").write_text(json.dumps({"data": table, "model": {"units": 3}}))
    assert "a.csv" not in fingerprints(config)["files"], "its model takes nothing from them"


@pytest.fixture
def same_code(tmp_path, monkeypatch):
    """A list of versions that compute the same, of this test's own."""
    path = tmp_path / "same_code.txt"
    monkeypatch.setattr(provenance, "SAME_CODE", path)

    def write(*lines):
        path.write_text("# words\n" + "".join(f"{line}\n" for line in lines))
        provenance.forget()

    return write


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ({"code": {"src": "1"}}, {"code": {"src": "1"}}, []),
        ({"code": {"src": "1"}}, {"code": {"src": "2"}}, []),
        ({"code": {"src": "2"}}, {"code": {"src": "1"}}, []),
        ({"code": {"src": "3"}}, {"code": {"src": "4"}}, []),
        ({"code": {"src": "2"}}, {"code": {"src": "3"}}, ["the project's own code"]),
        ({"code": {"src": "1"}}, {"code": {"src": "9"}}, ["the project's own code"]),
        ({"code": {"src": "1"}}, {"code": {"src": "1", "src.new": "5"}}, []),
        ({"code": {"src": "1"}}, {"code": {"src": "1", "src.new": "6"}}, ["code src.new (not there before)"]),
        ({"code": {"b": "1", "a": "1"}}, {"code": {"a": "2"}}, ["code a", "code b (not there any more)"]),
        ({"code": {"a": "1"}}, {"code": {"a": "2"}}, ["code a"]),
        ({"files": {"a": "1"}}, {"files": {"a": "2"}}, ["file a"]),
        ({"files": {"a": "written"}}, {"files": {"a": "2"}}, []),
        ({"files": {"a": "1"}}, {"files": {}}, ["file a (not there any more)"]),
        ({"files": {}}, {"files": {"a": "1"}}, []),
    ],
)
def test_differences(same_code, old, new, named):
    same_code("src 1 2", "src 3 4", "src.new - 5")
    assert differences(old, new) == named


def test_a_record_that_tells_no_code_is_asked_about():
    assert changes({}, MODEL) == ["code, which its record does not tell"]


@pytest.fixture
def before(user_code, same_code):
    """A record without a version, as the code of before made it, and the list that begins with that code."""
    config = {"model": {"_target_": "mine.model"}, "data": {"_target_": "src.data.sources.digits"}}
    now = fingerprints(config)["code"]
    parts = {**reach(COMPUTING, without=NOT_COMPUTING), **reach(provenance._targets(config), without=NOT_COMPUTING)}
    paths = {part.module.path for part in parts.values()} | {str(ROOT / "src/data/digit_scenes/digits.npz")}
    code = {}
    for path in map(Path, paths):
        shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        code[shown] = provenance.digest(path.read_bytes())
    code["src/data/digit_scenes/scenes.py"] = "0123"  # reached then, and not by what is reached now
    return config, {"code": code, "data": {}}, now


def test_a_record_of_before_is_as_good_as_new(before, same_code, user_code):
    config, record, _ = before
    same_code()
    assert changes(record, config) == []
    (user_code / "parts/layers.py").write_text("def block(): return 2\n")
    provenance.forget()
    assert changes(record, config) == ["code layers.py", "code sums.py (not there any more)"]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["src/build.py 00ff", "src 1 {src}"], []),
        (["src/build.py 00ff", "src {src}"], []),
        (["src/build.py 00ff", "src 1"], ["the project's own code"]),
        (["src/build.py 00ff", "src 1 2", "src 2 {src}"], ["the project's own code"]),
        (["src/build.py 00fe", "src 1 {src}"], ["code src/build.py"]),
        ([], ["code src/build.py"]),
    ],
)
def test_a_record_of_the_first_version_goes_by_the_list(before, same_code, lines, named):
    config, record, now = before
    record["code"]["src/build.py"] = "00ff"
    same_code(*(line.format(src=now["src"]) for line in lines))
    assert changes(record, config) == named


@pytest.mark.parametrize(("first", "named"), [("00ff", []), ("00fe", ["code src/trainer.py (not there any more)"])])
def test_a_file_that_has_moved_since_must_have_been_the_lists(before, same_code, first, named):
    config, record, now = before
    record["code"] |= {"src/trainer.py": "00ff", "src/gone_and_unlisted.py": "00ff"}
    same_code(f"src/trainer.py {first}", f"src 1 {now['src']}")
    assert changes(record, config) == named


def test_options_of_the_first_version_go_by_the_list(before, same_code):
    config, record, now = before
    record["code"]["src/data/sources.py"] = "00ff"
    key = "src.data.sources.digits"
    others = [f"{name} {hashed}" for name, hashed in now.items() if name.startswith("src.data.sources") and name != key]
    same_code("src/data/sources.py 00ff", f"{key} 1 {now[key]}", *others)
    assert changes(record, config) == []
    same_code("src/data/sources.py 00ff", f"{key} 1", *others)
    assert changes(record, config) == [f"code {key}"]


@pytest.mark.parametrize("key", provenance.OTHERWISE)
def test_an_option_that_computes_otherwise_is_asked_about_where_it_is_given(before, same_code, key):
    config, record, now = before
    same_code()
    group, name = key.split(".")
    given = {**config, group: {**config.get(group, {}), name: 4}}
    assert key not in now and changes(record, given) == [f"what {key} does"]
    new = fingerprints(given)
    assert changes(new, given) == []
    del new["code"][key]
    assert changes(new, given) == [f"what {key} does"]


def test_versions_that_compute_the_same_have_one_representative(same_code):
    same_code("src 1 2", "src 3 4")
    assert [provenance.representative("src", hashed) for hashed in "123456"] == ["1", "1", "3", "3", "5", "6"]


def test_a_fingerprint_is_json_and_the_same_from_any_directory(tmp_path):
    config = {"model": {"_target_": "src.models.cnn.cnn"}}
    code = f"from src.runs.provenance import fingerprints; import json; print(json.dumps(fingerprints({config})))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == fingerprints(config)

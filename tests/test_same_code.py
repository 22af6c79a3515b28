"""The list of versions of the project that compute the same."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import same_code
from benchmarks.pairs import BenchmarkError
from src.runs import provenance
from src.runs.provenance import OPTIONS, differences, is_users
from tests.support.helpers import ROOT


@pytest.fixture
def copy(tmp_path):
    """The project of another day: a changed trainer and model, a function less."""
    for file in (ROOT / "src").rglob("*.py"):
        path = tmp_path / file.relative_to(ROOT)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path)
    for name, old, new in (
        ("training/trainer", "import math", "import math\nX = 1"),
        ("models/mlp", "import keras", "import keras\nX = 1"),
        ("models/cnn", "import keras", "import keras  # as it is"),
        ("losses", "def _flattened(", "def _flat("),
    ):
        path = tmp_path / f"src/{name}.py"
        path.write_text(path.read_text().replace(old, new))
    return tmp_path


def test_what_has_been_run_is_written_as_equal(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(same_code, "SAME_CODE", tmp_path / "list.txt")
    monkeypatch.setattr(provenance, "SAME_CODE", tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("src 1\n")
    then, now = ({"code": same_code.hashes(root)} for root in (copy, ROOT))
    provenance.forget()
    changed = ["the project's own code", "code src.losses._flat (not there any more)", "code src.models.mlp"]
    assert set(changed) <= set(differences(then, now))
    keys = ["src", "src.models.cnn", "src.losses._flat", "src.losses._flattened", *same_code.MEANT]
    same_code.add(copy, keys)
    same_code.add(copy, keys)  # says nothing twice
    provenance.forget()
    assert "code src.models.mlp" in differences(then, now)
    assert not set(changed[:2]) & set(differences(then, now))
    lines = same_code.read()
    assert lines.count(["src.losses._flat", then["code"]["src.losses._flat"], "-"]) == 1
    meant = [line for line in lines if line[0] in same_code.MEANT]
    assert meant == [[key, now["code"][key]] for key in same_code.MEANT], "known, and equal to no other version"


def test_the_list_begins_with_the_first_version():
    try:
        first = same_code.first()
    except BenchmarkError as error:
        pytest.skip(f"no history here: {error}")
    begun: dict[str, str] = {}
    for key, hashed, *_ in same_code.read():
        begun.setdefault(key, hashed)
    assert {key: begun.get(key) for key, _ in first} == dict(first)


def test_the_options_of_the_project_are_none_of_the_users():
    known = {key for key, *_ in same_code.read()}
    assert all(any(f"{key}.".startswith(f"{option}.") for key in known) for option in OPTIONS)
    assert not any(
        is_users(name) for name in ("src.models.cnn", "src.data.images.tfds_sets", "src.training.trainer", "src.job")
    )
    assert is_users("src.models.mine") and is_users("mine.models") and not is_users("hydra_plugins.local_launcher")

"""The code that a run reaches: found as an import finds it, without running it, and hashed by what it computes."""

import importlib.machinery
import sys
import zipfile

import pytest

from src.common import code
from src.common.code import OF_MANY, reach
from tests.support.helpers import ROOT

FILES = {
    "mine/__init__.py": "",
    "mine/models.py": '"""Models."""\nfrom .parts import models\ndef net():\n    """It."""\n    return models.SIZE\n',
    "mine/parts/__init__.py": "",
    "mine/parts/models.py": "SIZE = 3  # units\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package of the user's in the working directory, with two modules of one name and two `__init__`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, FILES)
    return tmp_path


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def hashes(*references, **options):
    code.forget()
    return {key: part.hash() for key, part in reach(references, **options).items()}


@pytest.mark.parametrize("file", FILES)
def test_files_of_one_name_count_each_under_its_module(folder, file):
    before = hashes("mine.models.net")
    assert list(before) == ["mine", "mine.models", "mine.parts", "mine.parts.models"]
    (folder / file).write_text(FILES[file] + "more = 1\n")
    after = hashes("mine.models.net")
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert [key for key in before if before[key] != after[key]] == [name]


@pytest.mark.parametrize(
    "text",
    [
        "from .parts import models\ndef net(): return models.SIZE\n",
        "# why\nfrom .parts import models\n\n\ndef net(\n):\n    'Other words.'\n    return (models.SIZE)  # so\n",
        FILES["mine/models.py"].replace("    return", "    'another word'\n    return"),
    ],
    ids=["none", "others", "within"],
)
def test_comments_docstrings_and_layout_do_not_count(folder, text):
    before = hashes("mine.models.net")
    (folder / "mine/models.py").write_text(text)
    assert hashes("mine.models.net") == before


@pytest.mark.parametrize(
    "text",
    ["SIZE = 4", "SIZE = 3.0", "SIZE = '3'", "SIZE = +3", "size = 3", "SIZE = 3\nSIZE += 1", "", "SIZE = ="],
)
def test_what_computes_counts(folder, text):
    before = hashes("mine.models.net")
    (folder / "mine/parts/models.py").write_text(text)
    assert hashes("mine.models.net") != before


@pytest.mark.parametrize(
    ("importing", "module"),
    [
        ("from other import *", "other"),
        ("def net():\n    import other", "other"),
        ("try:\n    import other\nexcept ImportError:\n    other = None", "other"),
        ("class A:\n    from other import x", "other"),
        ("import importlib\nx = importlib.import_module('other')", "other"),
        (
            "from importlib import import_module as load, import_module\nx = import_module('.near', __package__)",
            "mine.near",
        ),
        ("x = __import__('other')", "other"),
        ("import runpy\nrunpy.run_module('other')", "other"),
        ("from . import near", "mine.near"),
        ("from .near import x", "mine.near"),
        ("import spread.deep.end", "spread.deep.end"),
        ("from spread.deep import end", "spread.deep.end"),
        ("import zipped.end", "zipped.end"),
        ("import edited.end", "edited.end"),
    ],
)
def test_whatever_way_it_is_imported(folder, monkeypatch, importing, module):
    files = dict.fromkeys(("other.py", "mine/near.py", "spread/deep/end.py", "far/edited/end.py"), "x = 1\n")
    write(folder, {**files, "mine/models.py": importing + "\n", "far/edited/__init__.py": ""})
    with zipfile.ZipFile(folder / "lib.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "")
        archive.writestr("zipped/end.py", "x = 1\n")
    monkeypatch.syspath_prepend(folder / "lib.zip")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder(folder / "far")])
    before = hashes("mine.models")
    assert module in before and module not in sys.modules
    (folder / "far/edited/end.py").write_text("x = 2\n")
    for name in files:
        (folder / name).write_text("x = 2\n")
    with zipfile.ZipFile(folder / "lib.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "# longer than before\n")
        archive.writestr("zipped/end.py", "x = 2\n")
    after = hashes("mine.models")
    assert [key for key in before if before[key] != after[key]] == [module]


class Finder:
    """As `pip install -e` puts into sys.meta_path."""

    def __init__(self, folder):
        self._folder = folder

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.PathFinder.find_spec(name, [str(self._folder)]) if name == "edited" else None


@pytest.mark.parametrize(
    "name", ["numpy.linalg", "keras.layers", "json", "os.path", "sys", "not.there", "google.protobuf"]
)
def test_neither_python_nor_installed_packages_are_followed(name):
    assert hashes(name) == {}


@pytest.mark.parametrize("reading", ["x = net.__doc__", "import inspect\nx = inspect.getdoc(net)"])
def test_docstrings_count_where_some_code_looks_at_them(folder, reading):
    text = f'def net():\n    """Build."""\n{reading}\n'
    (folder / "mine/models.py").write_text(text)
    before = hashes("mine.models.net")
    (folder / "mine/models.py").write_text(text.replace("Build", "Make"))
    assert hashes("mine.models.net") != before


def test_of_a_module_of_many_only_what_is_named(tmp_path):
    text = (
        "import math\nfrom src.a import one, two\nfrom src.c import effect\n"
        "log = 1\nFIRST = one(1)\ndef first(): return FIRST + helper()\n"
        "def helper(): return math.pi\ndef second(): return two(log)\n"
    )
    files = {"src/__init__.py": "", "src/losses.py": text, "src/a.py": "def one(x): ...\ntwo = 2\n", "src/c.py": ""}
    write(tmp_path, files)
    assert "src.losses" in OF_MANY
    first = hashes("src.losses.first", root=tmp_path)
    assert set(first) == {
        "src",
        "src.losses",
        "src.losses.first",
        "src.losses.FIRST",
        "src.losses.helper",
        "src.a",
        "src.c",
    }
    (tmp_path / "src/losses.py").write_text(text.replace("two(log)", "two(log) + 1"))
    assert hashes("src.losses.first", root=tmp_path) == first
    (tmp_path / "src/losses.py").write_text(text.replace("math.pi", "math.e"))
    assert hashes("src.losses.first", root=tmp_path) != first


@pytest.mark.parametrize(
    "more",
    ["TABLE['a'] = 2", "TABLE.update(a=2)", "@register('a')\ndef other(): return 2", "if True:\n    TABLE = {}"],
)
def test_what_a_module_of_many_does_when_it_is_imported_counts(tmp_path, more):
    text = (
        "TABLE = {}\ndef register(name): return lambda made: TABLE.setdefault(name, made)\ndef first(): return TABLE\n"
    )
    write(tmp_path, {"src/__init__.py": "", "src/losses.py": text})
    before = hashes("src.losses.first", root=tmp_path)
    (tmp_path / "src/losses.py").write_text(text + more + "\n")
    assert hashes("src.losses.first", root=tmp_path) != before


def test_a_module_of_many_that_looks_names_up_is_taken_whole(tmp_path):
    text = "def first(name): return globals()[name]()\ndef second(): return 2\n"
    write(tmp_path, {"src/__init__.py": "", "src/losses.py": text})
    assert set(hashes("src.losses.first", root=tmp_path)) == {"src", "src.losses"}


def test_nothing_of_the_project_is_imported_to_be_read():
    assert "src.training.trainer" in hashes("src.training.trainer", root=ROOT)


def test_a_project_elsewhere_lacks_what_only_the_installed_one_has(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").touch()
    assert code.find("src", root=tmp_path).path == str(tmp_path / "src" / "__init__.py")
    assert code.find("src.losses", root=tmp_path) is None

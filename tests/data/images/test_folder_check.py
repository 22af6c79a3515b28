"""Users' files: all that cannot be used are named at once, and what was seen is remembered until a file changes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from src.data.images import folder_check
from src.data.images.folder_check import Facts, cache_file, colours_to_name, find_problems, look_at_files, problem_list
from src.data.images.folder_classes import Classes, find_classes
from src.data.images.folder_layout import find_layout
from tests.support.folders import png, read_mask, save, write_pairs
from tests.support.helpers import ROOT
from tests.support.terminal import on_terminal

LOOK = """
import sys
from pathlib import Path
from src.data.images.folder_check import look_at_files
names = sorted(path.relative_to("photos").as_posix() for path in Path("photos").rglob("*.png"))
facts = look_at_files(Path("photos"), {name: name.partition("/")[0][:-1] for name in names}, cache=Path("cache.json"))
print(len(facts), sum(fact.error is None for fact in facts.values()))
"""


@pytest.fixture
def root(tmp_path):
    return write_pairs(tmp_path / "photos", count=4, size=8)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "seen.json"


def roles(root):
    return {path.relative_to(root).as_posix(): path.parent.name[:-1] for path in sorted(root.rglob("*.*"))}


def look(root, cache):
    return look_at_files(root, roles(root), cache=cache)


def findings(root, cache, **options):
    layout = find_layout(root)
    classes = find_classes(layout, **options)
    role = "mask" if classes.labels is None else "colour mask"
    known = {e.image: "image" for e in layout.examples if e.image} | {e.mask: role for e in layout.examples if e.mask}
    return find_problems(layout, look_at_files(root, known, cache=cache), classes)


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened, as they are."""
    found, real = [], folder_check._look
    monkeypatch.setattr(folder_check, "_look", lambda path, role: (found.append(path), real(path, role))[1])
    return found


def test_what_a_file_is(root, cache):
    facts = look(root, cache)
    assert len(facts) == 8
    assert facts["images/000.png"] == Facts((8, 8))
    assert facts["masks/000.png"] == Facts((8, 8), tuple(np.unique(read_mask(root / "masks" / "000.png")).tolist()))


def test_only_what_has_changed_is_looked_at_again(root, cache, opened):
    before = look(root, cache)
    assert len(opened) == 8
    assert look(root, cache) == before and len(opened) == 8
    changed = root / "images" / "001.png"
    status = changed.stat()
    changed.write_bytes(bytes(status.st_size))
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))  # the time of its change of times still tells
    (root / "masks" / "002.png").unlink()
    save(root / "images" / "new.png", np.zeros((3, 5), np.uint8))
    after = look(root, cache)
    assert {path.name for path in opened[8:]} == {"001.png", "new.png"}
    assert after["images/001.png"].error == "it is no image, or of a kind that cannot be read"
    assert after["images/new.png"] == Facts((3, 5))
    assert before.keys() - after.keys() == {"masks/002.png"}
    assert {name for name in before.keys() & after.keys() if before[name] != after[name]} == {"images/001.png"}


def test_masks_are_remembered_as_labels_and_as_colours(root, cache, opened):
    labels = look(root, cache)
    asked = {name: "colour mask" if role == "mask" else role for name, role in roles(root).items()}
    colours = look_at_files(root, asked, cache=cache)
    assert {value for fact in colours.values() for value in fact.values} == {0, 0x010101, 0x020202}
    opened.clear()
    assert look(root, cache) == labels
    assert look_at_files(root, asked, cache=cache) == colours and not opened


def test_a_damaged_memory_counts_as_none(root, cache):
    facts = look(root, cache)
    whole = cache.read_bytes()
    random = np.random.default_rng(0)
    damaged = [whole[:length] for length in random.integers(0, len(whole), 10)]
    for place in random.integers(0, len(whole), 20):
        changed = bytearray(whole)
        changed[place] ^= 1
        damaged.append(bytes(changed))
    for content in damaged:
        cache.write_bytes(content)
        assert look(root, cache) == facts
        assert cache.read_bytes() == whole


def test_a_memory_of_another_version_counts_as_none(root, cache, monkeypatch, opened):
    look(root, cache)
    monkeypatch.setattr(folder_check, "VERSION", "another")
    look(root, cache)
    assert len(opened) == 16


def test_a_memory_that_cannot_be_written(root, tmp_path):
    (tmp_path / "file").touch()
    assert len(look(root, tmp_path / "file" / "cache.json")) == 8
    (tmp_path / "folder.json").mkdir()
    assert len(look(root, tmp_path / "folder.json")) == 8


def test_an_interrupted_check_goes_on(root, cache, monkeypatch):
    seen, real = [], folder_check._look

    def interrupted(path, role):
        seen.append(path)
        if path.name == "002.png" and role == "mask":
            raise KeyboardInterrupt
        return real(path, role)

    monkeypatch.setattr(folder_check, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(root, cache)
    before = set(seen) - {root / "masks" / "002.png"}
    seen.clear()
    monkeypatch.setattr(folder_check, "_look", lambda path, role: (seen.append(path), real(path, role))[1])
    assert len(look(root, cache)) == 8
    assert {root / "masks" / name for name in ("002.png", "003.png")} <= set(seen)
    assert not set(seen) & {path for path in before if path.parent.name == "images"}


def test_two_processes_at_once(root, tmp_path, opened):
    write_pairs(root, count=60, size=8)
    command, env = [sys.executable, "-c", LOOK], {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["120 120\n"] * 2
    assert all(fact.error is None for fact in look(root, tmp_path / "cache.json").values()) and not opened


def test_a_bar_on_a_terminal(root, tmp_path):
    shown = on_terminal([sys.executable, "-c", LOOK], cwd=tmp_path, columns=80, rows=20)
    assert (shown.returncode, shown.stdout) == (0, "8 8\n"), shown.written
    assert "checking photos" in shown.written and "8/8" in shown.written and shown.cursor_shown


def test_where_it_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    inside = cache_file(None, tmp_path)
    assert inside.parent == tmp_path / "xdg" / "tensorflow-experiments" / "image_folder"
    monkeypatch.chdir(tmp_path.parent)
    assert cache_file(None, tmp_path.relative_to(tmp_path.parent)) == inside != cache_file(None, tmp_path.parent)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_file(None, tmp_path).is_relative_to(tmp_path / "home" / ".cache" / "tensorflow-experiments")
    assert cache_file("~/there", tmp_path).is_relative_to(tmp_path / "home" / "there" / "image_folder")


def label(root, number, values):
    """Give a mask these values in its first row."""
    path = root / "masks" / f"{number:03}.png"
    mask = np.zeros((8, 8), np.int64)
    mask[0, : len(values)] = values
    path.write_bytes(png(mask, bits=16 if max(values) > 255 else 8))


@pytest.mark.parametrize(
    ("masks", "options", "classes", "problems", "advice"),
    [
        ([[0, 1], [2]], {}, 3, {}, ""),
        ([[1], [2]], {}, 3, {}, ""),
        ([[0, 1], [2, 300]], {}, 3, {1: "label 300, while no mask has 3"}, "class_names"),
        ([[0, 1], [7, 8, 9, 10, 11]], {}, 2, {1: "labels 7, 8, 9 and 2 more, while no mask has 2"}, "class_names"),
        ([[0, 255], [255]], {}, 1, dict.fromkeys((0, 1), "label 255, while no mask has 1"), "ignore_label mask_colors"),
        ([[0, 1], [255]], {}, 2, {1: "label 255, while no mask has 2"}, "ignore_label"),
        ([[0, 1], [255]], {"ignore_label": 255}, 2, {}, ""),
        ([[0, 1], [2]], {"ignore_label": 2}, 2, {}, ""),
        ([[0, 2], [2]], {"ignore_label": 1}, 3, {}, ""),
        ([[0, 1], [3]], {"class_names": list("abc")}, 3, {1: "label 3, and the 3 classes are 0 to 2"}, "class_names"),
        ([[0, 1], [1]], {"class_names": list("abc")}, 3, {}, ""),
        ([[0, 255]], {"mask_colors": {"a": [0, 0, 0], "b": "#FFffff"}}, 2, {}, ""),
        (
            [[0, 9]],
            {"mask_colors": {"a": "#000000"}},
            1,
            {0: "colour #090909 without a class"},
            "mask_colors ignore_color",
        ),
        (
            [[0, 9]],
            {"mask_colors": {"a": [0, 0, 0]}},
            1,
            {0: "colour [9,9,9] without a class"},
            "mask_colors ignore_color",
        ),
        ([[0, 9]], {"mask_colors": {"a": "#000000"}, "ignore_color": [9, 9, 9]}, 1, {}, ""),
    ],
)
def test_labels_and_colours(tmp_path, cache, masks, options, classes, problems, advice):
    root = write_pairs(tmp_path / "photos", count=len(masks), size=8)
    for number, values in enumerate(masks):
        label(root, number, values)
    found = findings(root, cache, **options)
    assert found.classes == classes
    assert {number: reason for number, (_, reason) in found.problems.items()} == problems
    words = " ".join(found.advice)
    for option in ("ignore_label", "mask_colors", "class_names", "ignore_color"):
        assert (f"data.{option}" in words) == (option in advice.split()), words


def test_sizes_and_unreadable_files(root, cache):
    save(root / "masks" / "000.png", np.zeros((8, 9), np.uint8))
    save(root / "masks" / "001.png", np.zeros((6, 9), np.uint8))
    save(root / "images" / "001.png", np.zeros((9, 6, 3), np.uint8))
    (root / "images" / "002.png").write_bytes(b"")
    (root / "masks" / "002.png").write_text("no image")
    (root / "images" / "003.png").unlink()
    (root / "images" / "003.png").symlink_to("nowhere")
    assert findings(root, cache).problems == {
        0: ("masks/000.png", "it is 8 x 9, its image 8 x 8"),
        1: ("masks/001.png", "it is 6 x 9, its image 9 x 6 (has one been turned?)"),
        2: ("images/002.png", "it is empty; its mask: it is no image, or of a kind that cannot be read"),
        3: ("images/003.png", "it is a link to nothing"),
    }


def test_a_photograph_is_no_mask(root, cache):
    random = np.random.default_rng(0)
    for role, pixels in (
        ("mask", random.integers(0, 2**16, (64, 64))),
        ("colour mask", random.integers(0, 256, (64, 64, 3))),
    ):
        (root / "masks" / "000.png").write_bytes(png(pixels, bits=16 if pixels.ndim == 2 else 8))
        [fact] = look_at_files(root, {"masks/000.png": role}, cache=cache).values()
        assert fact.error and "as a photograph has; a mask has at most 1,024" in fact.error


def listed(root, cache, *, skip=False):
    return problem_list(find_layout(root), findings(root, cache), skip=skip, cache=cache).splitlines()


@pytest.mark.parametrize(("bad", "lines"), [(1, 3), (8, 10), (9, 10), (30, 10)])
def test_a_list_of_ten_lines_at_most(tmp_path, cache, bad, lines):
    root = write_pairs(tmp_path / "photos", count=31, size=8)
    for number in range(bad):
        save(root / "masks" / f"{number:03}.png", np.zeros((8, 9 + number), np.uint8))
    for skip in (False, True):
        shown = listed(root, cache, skip=skip)
        assert len(shown) == lines - skip
        assert shown[0] == f"{bad} of 31 images in {root} {'are left out' if skip else 'cannot be used'}:"
        assert shown[-1].startswith("Mend or remove them, or data.skip_bad=true") != skip
    if bad > 8:
        listing = cache.with_suffix(".txt")
        assert shown[-1] == f"  ... and {bad - 7} more; all are listed in {listing}"
        assert len(listing.read_text().splitlines()) == bad


def test_equal_problems_are_told_once_and_rare_ones_first(tmp_path, cache):
    root = write_pairs(tmp_path / "photos", count=30, size=8)
    for number in range(19):
        (root / "masks" / f"{number:03}.png").unlink()
    (root / "masks" / "019.png").write_bytes(b"")
    for number in (20, 21):
        (root / "images" / f"{number:03}.png").unlink()
    listing = cache.with_suffix(".txt")
    assert listed(root, cache)[:-1] == [
        f"20 of 28 images in {root} cannot be used and 2 masks have no image:",
        "  masks/019.png: it is empty",
        "  masks/020.png and 1 other: its image is missing",
        "  images/000.png and 18 others: its mask is missing",
        f"  all are listed in {listing}",
    ]
    assert len(listing.read_text().splitlines()) == 22


def test_masks_without_an_image_are_no_images(root, cache):
    (root / "images" / "000.png").unlink()
    assert listed(root, cache) == [
        f"1 mask in {root} has no image:",
        "  masks/000.png: its image is missing",
        "Mend or remove them, or data.skip_bad=true leaves them out.",
    ]


@pytest.mark.parametrize("skip", [False, True])
def test_leaving_out_is_offered_where_something_is_left(root, cache, skip):
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    assert listed(root, cache, skip=skip) == [
        f"4 of 4 images in {root} cannot be used:",
        "  all 4 images: it is empty",
        "Mend or remove them; data.skip_bad=true would leave none.",
    ]


@pytest.mark.parametrize("count", [3, 12])
def test_the_colours_in_masks_are_named_to_be_typed(tmp_path, cache, count):
    colours = np.array([[90, 0, number] for number in range(count)], np.uint8)
    pixels = np.concatenate([np.full(2 + number, number) for number in range(count)])  # the last one most often
    for name in "ab":
        save(tmp_path / "images" / f"{name}.png", np.zeros((1, len(pixels), 3), np.uint8))
        save(tmp_path / "masks" / f"{name}.png", colours[pixels][None])
    text = colours_to_name(find_layout(tmp_path), cache=cache)
    assert ("here the 8 most frequent of 12" in text) == (count == 12)
    names = ("background", *"abcdefg")[:count]
    given = ",".join(f"{name}:[90,0,{count - 1 - number}]" for number, name in enumerate(names))
    assert text.endswith(f"'data.mask_colors={{{given}}}'.")
    save(tmp_path / "masks" / "a.png", np.zeros((1, 5), np.uint16))
    save(tmp_path / "masks" / "b.png", np.zeros((1, 5), np.uint16))
    assert colours_to_name(find_layout(tmp_path), cache=cache) == ""


def test_names_that_are_no_text(tmp_path, cache):
    root = write_pairs(tmp_path / "photos", count=2, size=8)
    os.rename(root / "images" / "000.png", os.fsencode(root / "images") + b"/a\xff\n.png")
    text = "\n".join(listed(root, cache))
    assert "images/a\\udcff .png: its mask is missing" in text
    text.encode()
    assert look(root, cache)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a", "a"]}, "data.class_names has a twice"),
        ({"class_names": ["a"], "mask_colors": {"a": "#000000"}}, "give it or data.class_names"),
        ({"mask_colors": {"a": "red"}}, r"data.mask_colors.a is 'red'; it must be \[red,green,blue\]"),
        ({"mask_colors": {"a": [0, 0, 256]}}, "each 0 to 255"),
        ({"mask_colors": {"a": [0, 0]}}, "each 0 to 255"),
        ({"mask_colors": {"a": 7}}, "each 0 to 255"),
        ({"mask_colors": {"a": [0, 0, 0], "b": "#000000"}}, "data.mask_colors.b is '#000000', which another class has"),
        ({"mask_colors": {"a": "#000000"}, "ignore_color": "#000000"}, "data.ignore_color is '#000000', which another"),
        ({"class_names": "cats"}, r"data.class_names is 'cats'; it must be a list of names, \[cats,dogs\]"),
        (
            {"mask_colors": [[0, 0, 0]]},
            r"is a list; it must be a mapping {name: \[r, g, b\]}, as {background: \[0,0,0\]",
        ),
        ({"mask_colors": "red"}, "data.mask_colors is 'red'; it must be a mapping"),
        ({"ignore_color": "#000000"}, "give these as data.mask_colors"),
    ],
)
def test_options_that_do_not_fit(root, options, message):
    with pytest.raises(ValueError, match=message):
        find_classes(find_layout(root), **options)


def test_classes_are_named_by_a_file(root):
    (root / "classes.txt").write_text("\ufeffsky \n\nwoods, trees\n", encoding="utf-8")
    assert find_classes(find_layout(root)) == Classes(("sky", "woods, trees"))
    assert find_classes(find_layout(root), class_names=["a", "b"]).names == ("a", "b")
    (root / "classes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(
        ValueError, match=r"classes.txt cannot be read: .*; it must be UTF-8 text, a class in each line"
    ):
        find_classes(find_layout(root))

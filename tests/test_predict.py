"""`python -m src.predict` on real files: images of known classes, in all kinds and sizes, and broken ones."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from src.callbacks.export import export
from src.common.pictures import overlay, palette
from src.data.digit_scenes.digits import digit_indices, load_digits
from src.data.images.files import BadImage
from src.data.images.find import find_images
from src.data.images.resizing import resized
from src.inspection.predict_images import check_output, class_mask, earlier_pictures
from src.runs.record import Record
from tests.support import forks
from tests.support.folders import read_image
from tests.support.helpers import ROOT, only_run, train

NAMES = ["black", "red", "green", "blue"]
COLOURS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
SIZE = 32


def predict(*arguments, cwd):
    """`python -m src.predict`."""
    return forks.run("src.predict", [*map(str, arguments)], cwd=cwd)


def blocks(seed=0, times=1):
    """The classes of a picture of coloured blocks: uint8 [32 * times, 32 * times]."""
    classes = np.random.default_rng(seed).integers(0, 4, [4, 4], dtype=np.uint8)
    return np.kron(classes, np.ones([SIZE // 4 * times] * 2, np.uint8))


def save(path, pixels, **options):
    """Write an image file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_16_bits(path, pixels):
    """Write uint8 pixels [H, W, C] as a PNG of 16 bits a channel, white staying white."""
    path.write_bytes(tf.io.encode_png(pixels.astype(np.uint16) * 257).numpy())


def turned_back():
    """EXIF data that say: turn this by 90 degrees, clockwise."""
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


def masks(output):
    """Mode, pixels and colours of each mask by name."""
    found = {}
    for path in (output / "masks").rglob("*.png"):
        with Image.open(path) as image:
            found[str(path.relative_to(output / "masks"))] = (image.mode, np.asarray(image), image.convert("RGB"))
    return found


def entries(output):
    """predictions.json, and its images by file."""
    results = json.loads((output / "predictions.json").read_text())
    return results, {entry["file"]: entry for entry in results["images"]}


RECORD = {"id": "0" * 8, "name": "x", "monitor": "val/loss", "mode": "min", "metrics": {}, "overrides": ["epochs=1"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose model says which of four colours each pixel of 32x32 is nearest to."""
    directory = tmp_path_factory.mktemp("predict") / "run"
    centres = COLOURS / 255
    model = keras.Sequential([keras.Input([SIZE, SIZE, 3]), keras.layers.Conv2D(4, 1)])
    model.layers[0].set_weights([2 * centres.T[None, None], -(centres**2).sum(1)])
    export(model, directory / "saved_model" / "1")
    Record(directory).update(**RECORD, status="completed", class_names=NAMES)
    return directory


def test_images_of_all_kinds_and_sizes_beside_broken_ones(run, tmp_path):
    images, output, small, large = tmp_path / "images", tmp_path / "out", blocks(), blocks(times=3)
    colours, enlarged = COLOURS[small], COLOURS[large]
    save(images / "own.png", colours)
    save(images / "large.png", enlarged)
    save(images / "large.jpg", enlarged, quality=95)
    save(images / "wide.webp", enlarged[:, :60], lossless=True)
    save(images / "deep" / "own.png", COLOURS[blocks(1)])
    save(images / "rgba.png", np.dstack([enlarged, np.full(large.shape, 7, np.uint8)]))
    save(images / "gray.bmp", np.where(large > 0, 250, 5).astype(np.uint8))
    save(images / "turned.png", np.rot90(enlarged), exif=turned_back())
    save_16_bits(images / "colours16.png", colours)
    Image.fromarray(colours).quantize(4).save(images / "palette.gif")

    file = (images / "large.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(file[: len(file) // 2])
    file = bytearray((images / "large.png").read_bytes())
    file[len(file) // 2] ^= 255
    (images / "flipped.PNG").write_bytes(file)
    (images / "empty.png").touch()
    (images / "of\n2 lines\x1b[1m.png").touch()
    (images / "text.jpeg").write_text("no image")
    (images / "notes.txt").write_text("not asked for")
    broken = {
        "cut.jpg": "truncated",
        "flipped.PNG": "broken PNG file",
        "empty.png": "it is empty",
        "text.jpeg": "it is no image",
        "of\n2 lines\x1b[1m.png": "it is empty",
    }

    result = predict(run, images, "--output", output, cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stdout == f"{output / 'predictions.json'}\n"
    told = [line for line in result.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(told) == len(broken) and result.stderr.count(str(images)) == len(broken)
    assert result.stderr.endswith("error: 5 of 15 images were skipped, listed above\n")
    for name, reason in broken.items():
        shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b")
        assert any(f"{images / shown}: " in line and reason in line for line in told)

    found = masks(output)
    wanted = {
        "own.png": small,
        "large.png": large,
        "large.jpg": large,
        "wide.webp": large[:, :60],
        "deep/own.png": blocks(1),
        "rgba.png": large,
        "turned.png": large,
        "colours16.png": small,
        "palette.gif": small,
    }
    assert set(found) == {f"{name}.png" for name in (*wanted, "gray.bmp")}
    for name, classes in wanted.items():
        mode, mask, shown = found[f"{name}.png"]
        assert mode == "P" and mask.shape == classes.shape, name
        np.testing.assert_array_equal(np.asarray(shown), palette(4)[mask])
        exact = classes.shape == small.shape
        assert (mask == classes).mean() > (0.9999 if exact else 0.9), name
    _, dark, _ = found["gray.bmp.png"]
    assert (dark == 0)[large == 0].mean() > 0.9

    results, by_file = entries(output)
    assert (results["class_names"], results["id"]) == (NAMES, "0" * 8)
    assert {entry["file"] for entry in results["skipped"]} == {str(images / name) for name in broken}
    entry = by_file[str(images / "wide.webp")]
    mask = found["wide.webp.png"][1]
    assert (entry["width"], entry["height"], entry["mask"]) == (60, 96, "masks/wide.webp.png")
    assert entry["shares"] == pytest.approx({NAMES[i]: (mask == i).mean() for i in np.unique(mask)})
    drawn = np.asarray(Image.open(output / entry["overlay"]))
    np.testing.assert_array_equal(drawn, overlay(enlarged[:, :60], mask, 4))


def test_masks_are_those_of_the_saved_model_and_of_tensorflows_resizing(run, tmp_path):
    random = np.random.default_rng(0)
    native = random.integers(0, 256, [SIZE, SIZE, 3], dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(random.integers(0, 256, [5, 5, 3], dtype=np.uint8)).resize((90, 70)))
    save(tmp_path / "native.png", native)
    save(tmp_path / "smooth.png", smooth)
    result = predict(run, "native.png", "smooth.png", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = masks(tmp_path / "out")

    serve = tf.saved_model.load(str(run / "saved_model" / "1")).signatures["serving_default"]
    np.testing.assert_array_equal(found["native.png.png"][1], serve(image=native[None])["class"][0])
    small = tf.round(tf.image.resize(smooth, [SIZE, SIZE], antialias=True))
    scores = serve(image=tf.cast(small, tf.uint8)[None])["logits"]
    expected = np.argmax(tf.image.resize(scores, [70, 90])[0], axis=-1)
    assert len(np.unique(expected)) > 1
    assert (found["smooth.png.png"][1] == expected).mean() > 0.99


def test_names_never_collide_and_a_second_command_says_what_it_finds(run, tmp_path):
    for number, name in enumerate(["a/x.png", "a/x.bmp", "b/x.png", "b/c/x.png"]):
        save(tmp_path / name, COLOURS[np.full([SIZE, SIZE], number)])
    first = predict(run, "a", "b/**/*.png", "a/x.png", cwd=tmp_path)
    assert first.returncode == 0 and "note" not in first.stderr, first.stderr
    output = run / "predictions"
    assert {name: int(mask.max()) for name, (_, mask, _) in masks(output).items()} == {
        "a/x.png.png": 0,
        "a/x.bmp.png": 1,
        "b/x.png.png": 2,
        "b/c/x.png.png": 3,
    }
    second = predict(run, "b/c", "--output", output, cwd=tmp_path)
    assert second.returncode == 0 and f"note: {output} has earlier results" in second.stderr
    results, _ = entries(output)
    assert [entry["mask"] for entry in results["images"]] == ["masks/x.png.png"] and results["complete"]
    assert "masks/b/c/x.png.png" in results["earlier"] and len(earlier_pictures(output)) == 2 * 5


def test_a_classifier_tells_the_class_and_five_probabilities(tmp_path):
    small = ("model=mlp", "optimizer.learning_rate=0.02", "~callback.images")
    assert train("data=digits", *small, "epochs=3", cwd=tmp_path).returncode == 0
    run = only_run(tmp_path / "outputs" / "digits")
    images = load_digits()[0][digit_indices("test")[:40]]
    for number, image in enumerate(images):
        save(tmp_path / "digits" / f"{number:02}.png", image[..., 0])
    save(tmp_path / "digits" / "colour.png", np.repeat(images[0], 3, axis=2))
    save(tmp_path / "digits" / "large.png", np.kron(images[0][..., 0], np.ones([5, 5], np.uint8)))
    save_16_bits(tmp_path / "digits" / "deep.png", images[0])
    result = predict(run, "digits/*.png", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.json"}

    served = tf.saved_model.load(str(run / "saved_model" / "1")).signatures["serving_default"](image=images)
    _, by_file = entries(tmp_path / "out")
    for number, (logits, expected) in enumerate(zip(served["logits"].numpy(), served["class"].numpy(), strict=True)):
        entry = by_file[f"digits/{number:02}.png"]
        shares = np.exp(logits) / np.exp(logits).sum()
        best = sorted(range(10), key=lambda i: -shares[i])[:5]
        assert entry["class"] == str(expected) == str(best[0])
        assert list(entry["probabilities"]) == [str(i) for i in best]
        assert list(entry["probabilities"].values()) == pytest.approx(shares[best], rel=1e-4)
    for name in ("colour", "deep", "large"):
        assert by_file[f"digits/{name}.png"]["probabilities"] == pytest.approx(
            by_file["digits/00.png"]["probabilities"], abs=0.2 if name == "large" else 1e-6
        )


@pytest.mark.exhaustive
def test_a_model_of_any_size_and_of_300_classes_and_a_record_without_names(tmp_path):
    class Brightness(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1], tf.uint8, name="image")])
        def serve(self, image):
            number = tf.cast(image, tf.int32)[..., 0] + 40
            return {"logits": tf.one_hot(number, 300), "class": number}

    module, run = Brightness(), tmp_path / "run"
    tf.saved_model.save(module, str(run / "saved_model" / "1"), signatures={"serving_default": module.serve})
    # As `data.apply_exif=${...}` is recorded.
    Record(run).update(**RECORD, status="completed", config={}, derived={"data.apply_exif": False})
    random = np.random.default_rng(0)
    shapes = {"a.png": (20, 30), "b.png": (7, 9), "c.png": (20, 30)}
    images = {name: random.integers(0, 256, shape, dtype=np.uint8) for name, shape in shapes.items()}
    for name, image in images.items():
        save(tmp_path / name, image, exif=turned_back())
    result = predict(run, *images, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = masks(run / "predictions")
    for name, image in images.items():
        mode, mask, _ = found[f"{name}.png"]
        assert mode == "I;16"
        np.testing.assert_array_equal(mask, image.astype(int) + 40)
    results, by_file = entries(run / "predictions")
    assert results["class_names"] == [str(i) for i in range(300)]
    assert by_file["a.png"]["shares"]["295"] == (images["a.png"] == 255).mean()


# The peak as the process itself sees it: what it is forked from, this one, may be larger.
WITH_PEAK = """
import os
from pathlib import Path
from src.common.command import run_command
from src.predict import main

leave = os._exit

def tell(code):
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], flush=True)
    leave(code)

os._exit = tell
run_command(main)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_twelve_megapixels_need_less_than_a_gigabyte(run, tmp_path):
    save(tmp_path / "photo.jpg", np.kron(COLOURS[blocks()], np.ones([94, 125, 1], np.uint8))[:3000, :4000])
    command = [sys.executable, "-c", WITH_PEAK, str(run), "photo.jpg", "--output", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) * 1024 < 1e9
    _, mask, _ = masks(tmp_path / "out")["photo.jpg.png"]
    assert (mask == np.kron(blocks(), np.ones([94, 125], np.uint8))[:3000, :4000]).mean() > 0.9


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nowhere", "a.png"], 2, "nowhere is no run: give its directory, outputs/<name>/<label>-<id>, or 4"),
        (["a.png", "RUN"], 2, "a.png is no run"),
        (["RUN"], 2, "the following arguments are required: FILE"),
        (["RUN", "none/*.png"], 2, "no image matches 'none/*.png'; images end in .png"),
        (["RUN", "a.png", "b.png"], 2, "there is no file or folder b.png"),
        (["RUN", "empty"], 2, "no image in the folder empty"),
        (["RUN", "2\nlines"], 2, "there is no file or folder 2\\nlines"),
        (["RUN", "a.png", "--output", "a.png"], 2, "a.png cannot be made (File exists); give another"),
        (["RUN", "a.png", "--ouput", "x"], 2, "unrecognized arguments: --ouput"),
        (["RUN", "a.png", "--output", "ds"], 2, "ds/masks/a.png.png exists and is not listed in ds/predictions.json"),
        (["RUN", "two"], 2, "masks/a.png.png would be a picture and a folder for b.png.png; rename an image"),
        (["begun", "a.png"], 1, "is not there; complete the run: python -m src.train epochs=1 'name=my run'"),
        (["served", "a.png"], 1, "is not there; train the run with callback.export"),
        (["--help"], 0, "masks/<image>.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refuses_in_one_line_and_without_tensorflow(run, tmp_path, arguments, code, text):
    save(tmp_path / "a.png", COLOURS[blocks()])
    (tmp_path / "empty").mkdir()
    save(tmp_path / "ds" / "masks" / "a.png.png", blocks())
    save(tmp_path / "two" / "a.png", blocks())
    save(tmp_path / "two" / "a.png.png" / "b.png", blocks())
    Record(tmp_path / "begun").update(**RECORD | {"status": "running", "overrides": ["epochs=1", "name=my run"]})
    Record(tmp_path / "served").update(**RECORD | {"status": "completed"})
    arguments = [str(run) if word == "RUN" else word for word in arguments]
    command = [sys.executable, "-X", "importtime", "-m", "src.predict", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    said = [line for line in result.stderr.splitlines() if not line.startswith("import time")]
    assert result.returncode == code
    assert text in (result.stdout if code == 0 else said[0]) and len(said) == (code != 0)
    assert "numpy" in imported and not {"tensorflow", "keras", "hydra"} & imported
    assert (code != 2) or said[0].endswith("see python -m src.predict --help")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["gray", "gray and alpha", "RGB", "RGBA"])
@pytest.mark.parametrize("bits", [8, 16])
def test_png_files_are_read_as_tensorflow_reads_them(tmp_path, kind, bits, channels):
    stored = 1 + ["gray", "gray and alpha", "RGB", "RGBA"].index(kind)
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(0).integers(0, 2**bits, [9, 7, stored], dtype=dtype)
    path = tmp_path / "image.png"
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    read = read_image(path, channels=channels)
    expected = tf.io.decode_png(path.read_bytes(), channels=channels).numpy()
    assert read.shape == (9, 7, channels) and read.dtype == np.uint8
    rounding = 1 if channels == 1 and stored > 2 else 0  # of gray made from colours
    assert np.abs(read.astype(int) - expected).max() <= rounding


def test_other_kinds_of_files(tmp_path):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / "a.pgm").write_bytes(b"P5 16 16 65535\n" + (gray.astype(">u2") * 257).tobytes())
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "a.tif")
    frames = [Image.fromarray(pixels) for pixels in (gray, 255 - gray)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("a.pgm", "a.tif", "moving.webp"):
        np.testing.assert_array_equal(read_image(tmp_path / name, channels=1)[..., 0], gray, err_msg=name)
    Image.fromarray(gray > 127).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png", channels=3)[..., 2], np.where(gray > 127, 255, 0))
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red.save(tmp_path / "print.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "print.jpg", channels=3) - np.array([255.0, 0, 0])).max() < 10
    Image.fromarray(np.ones([4, 4], np.float32)).save(tmp_path / "floats.tif")
    with pytest.raises(BadImage, match="range is not known"):
        read_image(tmp_path / "floats.tif", channels=1)


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in {"pipe.png": "no file", "": "no file", "missing.png": "no such file"}.items():
        with pytest.raises(BadImage, match=reason):
            read_image(tmp_path / path, channels=3)


def test_folders_and_patterns_find_images_once_and_in_order(tmp_path, monkeypatch):
    for name in ("in/b.png", "in/a.JPG", "in/sub/c.tiff", "in/.hidden.png", "in/.cache/d.png", "in/x.txt", "a[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"-")
    monkeypatch.chdir(tmp_path)

    def names(*words, **options):
        files, base = find_images(words, **options)
        return [file.as_posix() for file in files], base

    assert names("in") == (["in/a.JPG", "in/b.png", "in/sub/c.tiff"], tmp_path / "in")
    assert names("in/**/*.tiff") == (["in/sub/c.tiff"], tmp_path / "in")
    assert names("in/b.png", "in", "in/../in/b.png")[0] == ["in/b.png", "in/a.JPG", "in/sub/c.tiff"]
    assert names("a[1].png", "in/x.txt") == (["a[1].png", "in/x.txt"], tmp_path)
    assert names("in", leave_out=[tmp_path / "in" / "sub"])[0] == ["in/a.JPG", "in/b.png"]
    assert names("in/sub/*", "in/b.png") == (["in/sub/c.tiff", "in/b.png"], tmp_path / "in")
    with pytest.raises(ValueError, match="there is no file or folder in/missing"):
        find_images(["in", "in/missing.png"])


def test_links_and_earlier_outputs_in_folders(tmp_path, monkeypatch):
    for name in ("in/a.png", "in/out/masks/a.png.png", "in/out/overlays/a.png.png", "in/masks/b.png"):
        save(tmp_path / name, blocks())
    (tmp_path / "in" / "out" / "predictions.json").touch()
    (tmp_path / "in" / "gone.png").symlink_to("nothing")
    (tmp_path / "link").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    for word in ("in", "in/**/*.png"):
        assert {file.as_posix() for file in find_images([word])[0]} == {"in/a.png", "in/gone.png", "in/masks/b.png"}
    assert len(find_images(["in/out/masks"])[0]) == 1  # named itself
    found, _ = find_images(["in"], leave_out=[tmp_path / "link" / "masks"])
    assert {file.name for file in found} == {"a.png", "gone.png"}
    with pytest.raises(BadImage, match="it is a link to nothing"):
        read_image(tmp_path / "in" / "gone.png", channels=3)


def test_an_output_is_checked_against_what_is_there(tmp_path):
    file = save(tmp_path / "in" / "a" / "x.png", blocks())
    out = tmp_path / "out"
    check_output(out, [file], tmp_path / "in")
    save(out / "masks" / "a" / "x.png.png", blocks())
    with pytest.raises(ValueError, match=r"masks/a/x\.png\.png exists and is not listed in .*; give another folder"):
        check_output(out, [file], tmp_path / "in")
    (out / "predictions.json").write_text('{"images": [], "earlier": ["masks/a/x.png.png"]}')
    check_output(out, [file], tmp_path / "in")
    (out / "overlays").touch()
    with pytest.raises(ValueError, match=r"overlays is not a folder, so overlays/a/x\.png\.png cannot be made"):
        check_output(out, [file], tmp_path / "in")


def test_strips_of_a_mask_are_those_of_the_whole(monkeypatch):
    scores = np.random.default_rng(0).normal(size=[24, 30, 7]).astype(np.float32)
    whole = class_mask(scores, (401, 303))
    monkeypatch.setattr("src.common.pictures.STRIP_PIXELS", 303 * 17)
    assert (class_mask(scores, (401, 303)) == whole).mean() > 0.9999


@pytest.mark.parametrize("size", [(48, 48), (97, 61), (20, 31)])
def test_class_masks_are_the_best_of_all_planes(size):
    scores = np.random.default_rng(0).normal(size=[24, 24, 7]).astype(np.float32)
    planes = np.stack([resized(scores[..., i], size) for i in range(7)], axis=-1)
    np.testing.assert_array_equal(class_mask(scores, size), planes.argmax(-1))
    if min(size) > 24:  # TensorFlow does not blur where it reduces
        assert (class_mask(scores, size) == np.argmax(tf.image.resize(scores, size), axis=-1)).mean() > 0.9999


def test_of_equal_scores_the_first_class_counts():
    scores = np.random.default_rng(0).integers(0, 3, [24, 24, 7]).astype(np.float32)
    np.testing.assert_array_equal(class_mask(scores, (24, 24)), scores.argmax(-1))

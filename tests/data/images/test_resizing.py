"""data.resize: the same pixels in training and in predict, and predicted masks put back in place."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from src.data.images.files import Reading
from src.data.images.folders import image_folder
from src.data.images.resizing import fitted, fitted_mask, windows
from src.inspection.predict_images import Writer
from tests.support import forks
from tests.support.folders import read_mask, save, write_classes
from tests.support.helpers import only_run, train
from tests.support.pages import SERVE

SIDES = st.integers(1, 60)
WIDE = np.repeat(np.arange(1, 9, dtype=np.uint8)[None], 4, axis=0)  # [4, 8], each column of one value


def test_an_image_is_resized_as_the_page_says():
    (written,) = re.findall(r"`(np\.asarray\(image.*?)`", SERVE.read_text(encoding="utf-8"))
    pixels = np.random.default_rng(0).integers(0, 256, (41, 30, 3), np.uint8)
    names = {"np": np, "Image": Image, "image": Image.fromarray(pixels), "width": 16, "height": 20}
    assert (eval(written, names) == fitted(pixels, (20, 16), None)).all()


def test_what_each_does():
    image, half = WIDE[..., None], np.array([1.5, 3.5, 5.5, 7.5]).round().astype(np.uint8)
    assert fitted(image, (4, 4), None).shape == (4, 4, 1)
    padded = fitted(image, (4, 4), "pad")[..., 0]
    assert (padded[[0, 3]] == 0).all() and (np.abs(padded[1:3].astype(int) - half) <= 1).all()
    assert (fitted(image, (4, 4), "crop")[..., 0] == WIDE[:, 2:6]).all()
    assert (fitted(image.swapaxes(0, 1), (4, 4), "crop")[..., 0] == WIDE[:, 2:6].T).all()
    assert (fitted_mask(WIDE, (4, 4), "pad", outside=255)[[0, 3]] == 255).all()
    assert (fitted_mask(WIDE, (4, 4), "pad", outside=-1)[[0, 3]] == -1).all()
    assert (fitted_mask(WIDE, (4, 4), "crop", outside=255) == WIDE[:, 2:6]).all()


@given(size=st.tuples(SIDES, SIDES), shape=st.tuples(SIDES, SIDES))
def test_the_aspect_is_kept(size, shape):
    for fit in ("pad", "crop"):
        taken, placed = windows(size, shape, fit)
        parts = [(part.stop - part.start) for part in (*taken, *placed)]
        ends = zip((*taken, *placed), (*size, *shape), strict=True)
        assert all(0 <= part.start < part.stop <= whole for part, whole in ends)
        scales = parts[2] / parts[0], parts[3] / parts[1]
        exact = (min if fit == "pad" else max)(shape[0] / size[0], shape[1] / size[1])
        for scale, old in zip(scales, parts[:2], strict=True):
            assert abs(scale - exact) <= max(1, exact) * 1.5 / old + 1e-9 or min(parts) == 1
        assert (parts[:2] == list(size)) if fit == "pad" else (parts[2:] == list(shape))
    assert windows(size, shape, None) == (
        (slice(0, size[0]), slice(0, size[1])),
        (slice(0, shape[0]), slice(0, shape[1])),
    )


@pytest.mark.parametrize("fit", [None, "pad", "crop"])
@pytest.mark.parametrize("size", [(20, 40), (40, 20), (16, 16), (7, 33)])
@pytest.mark.parametrize("classes", [3, 256])
def test_a_predicted_mask_is_put_back(fit, size, classes, tmp_path):
    """Of a model that is always right, at a size of its own."""
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 3 :, size[1] // 2 :] = 1
    answer = fitted_mask(mask, (16, 16), fit, outside=2)
    scores = (answer[..., None] == np.arange(classes)).astype(np.float32)
    write = Writer(tmp_path, tmp_path, [str(n) for n in range(classes)], fit)
    entry = write(tmp_path / "a.png", np.zeros((*size, 3), np.uint8), (scores, answer.astype(np.int32)))
    found, (taken, _) = read_mask(tmp_path / entry["mask"]), windows(size, (16, 16), fit)
    seen = np.zeros(size, bool)
    seen[taken] = True
    assert found.shape == size and (found[~seen] == (255 if classes == 3 else 65535)).all()
    assert seen.all() == (fit != "crop" or size == (16, 16))
    assert (found[seen] == mask[seen]).mean() > 0.85 and set(np.unique(found[seen])) <= {0, 1, 2}
    assert sum(entry["shares"].values()) == pytest.approx(1)


def write_photos(folder, count=12):
    """Images 16 x 28 whose left half is dark and right half bright, and masks that say so."""
    for number in range(count):
        image = np.full((16, 28, 3), 10, np.uint8)
        image[:, 14:] = 200 + number
        save(folder / "images" / f"{number}.png", image)
        save(folder / "masks" / f"{number}.png", (image[..., 0] > 100).astype(np.uint8))
    return folder


def test_a_run_resizes_as_predict_does(tmp_path):
    write_photos(tmp_path / "photos")
    options = (
        "data=image_folder",
        "data.path=photos",
        "data.image_size=16",
        "data.resize=pad",
        "data.ignore_label=255",
    )
    small = ("model.filters=4", "model.depth=1", "epochs=12", "batch_size=4", "optimizer=adam", "data.transforms=null")
    done = train(*options, *small, "optimizer.learning_rate=0.02", "schedule=constant", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (name,) = (tmp_path / "outputs").iterdir()
    run = only_run(name)
    evaluated = forks.run("src.evaluate", [str(run)], cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    predicted = forks.run("src.predict", [str(run), "photos/images"], cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    entries = json.loads((run / "predictions" / "predictions.json").read_text())["images"]
    for entry in entries:
        found = read_mask(run / "predictions" / entry["mask"])
        assert found.shape == (16, 28)
        assert (found == (np.arange(28) >= 14)).mean() > 0.85
    shown = forks.run("src.data", list(options), cwd=tmp_path)
    assert shown.returncode == 0 and "(ignored)  43.75%" in shown.stdout, shown.stdout + shown.stderr


def test_what_cannot_be_is_refused(tmp_path):
    write_photos(tmp_path / "photos")
    write_classes(tmp_path / "pets", {"cats": 4, "dogs": 4})
    options = {"batch_size": 4, "seed": 0, "path": str(tmp_path / "photos")}
    with pytest.raises(ValueError, match=r"data.resize=crop says how images get to data.image_size: give that too"):
        image_folder(resize="crop", **options)
    (tmp_path / "photos" / "images" / "0.png").write_bytes(b"broken")  # it is refused before files are read
    with pytest.raises(ValueError, match=r"^data.resize=pad gives masks edges.*data.ignore_label=255"):
        image_folder(image_size=8, resize="pad", **options)
    with pytest.raises(ValueError, match="resize is 'fill'"):
        image_folder(image_size=8, resize="fill", **options)
    labels = image_folder(image_size=[6, 4], resize="pad", **{**options, "path": str(tmp_path / "pets")})
    assert labels.input_shape == (6, 4, 3)
    with pytest.raises(ValueError, match="give that too"):
        Reading(fit="pad")

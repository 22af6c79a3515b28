"""Augmentation: a function of (seed, epoch, index) alone, and each transform against what it promises."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from src.data.images.transforms import Augment, Brightness, Flip, Noise, Random, Shift
from tests.support.helpers import ROOT

COUNT, SHAPE = 70, (13, 11, 3)  # no multiple of any vector width


def all_transforms() -> dict:
    return {
        "flip": Flip(),
        "shift": Shift(max_pixels=2),
        "brightness": Brightness(max_delta=0.1),
        "noise": Noise(stddev=0.02),
    }


def examples(count: int = COUNT, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape), np.uint8).astype(np.float32) * np.float32(1 / 255)
    return images, rng.integers(0, 11, (count, *shape[:2]), np.uint8)


def apply(augment: Augment, images, targets, *, epoch: int = 4, index=None) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(len(images)) if index is None else index
    arguments = tf.constant(images), tf.constant(targets), tf.constant(epoch), tf.constant(index, tf.int32)
    return tuple(out.numpy() for out in augment(*arguments))


def one(transform, images, targets=None, **options) -> tuple[np.ndarray, np.ndarray]:
    """A single transform, with labels where no masks are given."""
    targets = np.zeros(len(images), np.int32) if targets is None else targets
    return apply(Augment({"it": transform}, seed=0), images, targets, **options)


class Draw:
    """Shows what a transform of its name would draw."""

    def __init__(self, kind: str = "uniform") -> None:
        self.kind = kind

    def __call__(self, images, masks, random):
        return getattr(random, self.kind)(tuple(images.shape[1:])), masks


def drawn(name: str = "noise", *, seed: int = 0, epoch: int = 0, others: dict | None = None, count: int = 400):
    """Uniform numbers [count, 144] that the transform `name` draws for the examples 0 to count - 1."""
    images = np.zeros((count, 8, 6, 3), np.float32)
    augment = Augment({**(others or {}), name: Draw()}, seed=seed)
    return apply(augment, images, np.zeros(count, np.int32), epoch=epoch)[0].reshape(count, -1)


def digest() -> str:
    """Of the augmented examples: also what a fresh process prints."""
    parts = apply(Augment(all_transforms(), seed=3), *examples())
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def chi_square(uniform: np.ndarray, bins: int = 16) -> float:
    counts = np.bincount((uniform.ravel() * bins).astype(int), minlength=bins)
    expected = uniform.size / bins
    return float(((counts - expected) ** 2 / expected).sum())


CHI_SQUARE_LIMIT = 44.3  # 15 degrees of freedom: passed by 1 in 10,000 good generators


@pytest.fixture(scope="module")
def whole():
    """One compiled augmentation, its examples, and what it makes of all of them at once."""
    augment, (images, masks) = Augment(all_transforms(), seed=3), examples()
    return augment, images, masks, apply(augment, images, masks)


@pytest.mark.sample(2)
@pytest.mark.parametrize("batch_size", [7, 33, 1, 2, 3, 8, 9, 16, 64])
def test_same_bytes_whatever_the_batch_size(whole, batch_size):
    augment, images, masks, expected = whole
    for start in range(0, COUNT, batch_size):
        index = np.arange(start, min(start + batch_size, COUNT))
        for all_of_them, part in zip(expected, apply(augment, images[index], masks[index], index=index), strict=True):
            np.testing.assert_array_equal(part, all_of_them[index])


def test_same_bytes_in_any_company(whole):
    augment, images, masks, expected = whole
    index = np.random.default_rng(1).integers(0, COUNT, COUNT)  # some twice, some not at all
    for all_of_them, part in zip(expected, apply(augment, images[index], masks[index], index=index), strict=True):
        np.testing.assert_array_equal(part, all_of_them[index])


def test_same_bytes_eager_in_a_graph_and_in_tf_data(whole):
    augment, images, masks, expected = whole
    index, epoch = tf.range(COUNT), tf.constant(4)
    in_graph = tf.function(augment.__call__)(tf.constant(images), tf.constant(masks), epoch, index)
    dataset = tf.data.Dataset.from_tensor_slices((images, masks, index)).batch(16)
    batches = list(dataset.map(lambda x, y, i: augment(x, y, epoch, i), num_parallel_calls=2).as_numpy_iterator())
    in_data = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    for i, all_of_them in enumerate(expected):
        np.testing.assert_array_equal(in_graph[i].numpy(), all_of_them)
        np.testing.assert_array_equal(in_data[i], all_of_them)


@pytest.mark.exhaustive
def test_same_bytes_in_a_fresh_process_with_other_threads():
    threads = 2 if tf.config.threading.get_intra_op_parallelism_threads() == 1 else 1
    code = (
        "import tensorflow as tf\n"
        "for kind in ('intra', 'inter'):\n"
        f"    getattr(tf.config.threading, f'set_{{kind}}_op_parallelism_threads')({threads})\n"
        "from tests.data.test_transforms import digest\n"
        "print(digest())"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    fresh = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == digest()


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("trailing", [(), (1,)])
def test_masks_keep_type_shape_and_labels(dtype, trailing):
    images, _ = examples()
    masks = np.where(np.random.default_rng(2).random((COUNT, *SHAPE[:2])) < 0.5, 7, 255).astype(dtype)
    _, out = apply(Augment(all_transforms(), seed=0), images, masks.reshape(*masks.shape, *trailing))
    assert out.dtype == dtype and out.shape == (*masks.shape, *trailing)
    assert set(np.unique(out)) == {7, 255}


@pytest.mark.parametrize(
    "labels", [np.arange(COUNT, dtype=np.int32), np.eye(COUNT, 5, dtype=np.float32)], ids=["numbers", "one-hot"]
)
def test_labels_pass_unchanged(labels):
    _, out = apply(Augment(all_transforms(), seed=0), examples()[0], labels)
    assert out.dtype == labels.dtype
    np.testing.assert_array_equal(out, labels)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flip(p):
    images, masks = examples(400, (4, 5, 1))
    out, out_masks = one(Flip(p=p), images, masks)
    flipped = (out == images[:, :, ::-1]).all((1, 2, 3))
    expected = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(out_masks, np.where(flipped[:, None, None], masks[:, :, ::-1], masks))
    assert abs(flipped.mean() - p) <= 4 * (p * (1 - p) / 400) ** 0.5


def moved(x: np.ndarray, down: int, right: int) -> np.ndarray:
    """NumPy's shift of one image or mask: out[y, x] = in[y + down, x + right], the border repeated."""
    rows = np.clip(np.arange(x.shape[0]) + down, 0, x.shape[0] - 1)
    columns = np.clip(np.arange(x.shape[1]) + right, 0, x.shape[1] - 1)
    return x[rows][:, columns]


@pytest.mark.parametrize(("max_pixels", "count"), [(0, 5), (1, 200), (2, 500)])
def test_shift(max_pixels, count):
    images, masks = examples(count, (9, 7, 3))
    out, out_masks = one(Shift(max_pixels=max_pixels), images, masks)
    offsets = range(-max_pixels, max_pixels + 1)
    seen = np.zeros((len(offsets),) * 2, int)
    for image, mask, got, got_mask in zip(images, masks, out, out_masks, strict=True):
        fits = [(y, x) for y in offsets for x in offsets if (moved(image, y, x) == got).all()]
        assert len(fits) == 1
        np.testing.assert_array_equal(got_mask, moved(mask, *fits[0]))
        seen[fits[0][0] + max_pixels, fits[0][1] + max_pixels] += 1
    expected = count / seen.size
    assert ((seen - expected) ** 2 / expected).sum() <= seen.size + 6 * (2 * seen.size) ** 0.5
    assert (seen > 0).all()


def test_shift_beyond_the_image_repeats_its_border():
    images, masks = examples(20, (3, 4, 1))
    out, out_masks = one(Shift(max_pixels=500), images, masks)
    for image, mask, got, got_mask in zip(images, masks, out, out_masks, strict=True):
        assert set(np.unique(got)) <= set(np.unique(image)) and set(np.unique(got_mask)) <= set(np.unique(mask))


def test_brightness():
    count, delta = 4000, 0.2
    images = np.full((count, 3, 3, 2), 0.5, np.float32)
    images[:, 0] = 1.0
    out, _ = one(Brightness(max_delta=delta), images)
    factor = out[:, 1, 0, 0] / 0.5
    np.testing.assert_array_equal(out[:, 1:], np.broadcast_to(out[:, 1:2, :1, :1], out[:, 1:].shape))
    np.testing.assert_allclose(out[:, 0, 0, 0], np.minimum(factor, 1), rtol=1e-6)
    assert factor.min() >= 1 - delta - 1e-6 and factor.max() <= 1 + delta + 1e-6
    assert abs(factor.mean() - 1) <= 4 * delta / (3 * count) ** 0.5
    assert abs(factor.std() / (delta / 3**0.5) - 1) <= 4 / (5 * count) ** 0.5  # of a uniform's deviation: 1 / sqrt(5 n)


def test_noise():
    count, stddev = 300, 0.05
    out, _ = one(Noise(stddev=stddev), np.full((count, 12, 12, 3), 0.5, np.float32))
    noise = (out - 0.5) / stddev
    assert abs(noise.mean()) <= 4 / noise.size**0.5
    assert abs(noise.std() - 1) <= 4 / (2 * noise.size) ** 0.5
    assert np.abs(noise).max() <= 3.46
    for neighbours in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1])):
        assert abs(correlation(*neighbours)) <= 4 / neighbours[0].size ** 0.5


@pytest.mark.parametrize("transform", [Noise(stddev=1.0), Brightness(max_delta=1.0)])
def test_pixels_stay_from_0_to_1(transform):
    out, _ = one(transform, examples()[0])
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(p=-0.1), "p is -0.1; it must be a number at least 0 and at most 1"),
        (lambda: Flip(p=1.1), "p is 1.1"),
        (lambda: Flip(p=float("nan")), "p is nan"),
        (lambda: Shift(max_pixels=-1), "max_pixels is -1"),
        (lambda: Shift(max_pixels=2**15 + 1), "max_pixels is 32769"),
        (lambda: Brightness(max_delta=1.5), "max_delta is 1.5"),
        (lambda: Noise(stddev=-0.01), "stddev is -0.01"),
        (lambda: Noise(stddev=float("inf")), "stddev is inf"),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def random(count: int) -> Random:
    """Of the keys 0 to count - 1."""
    return Random(tf.cast(tf.range(count), tf.uint32))


def test_bits_are_pinned():
    """Integers, so the same on every processor: a change here changes the augmentation of every run."""
    bits = random(1000).bits((100,)).numpy()
    assert bits.dtype == np.uint32 and bits.shape == (1000, 100)
    assert hashlib.sha256(bits.astype("<u4").tobytes()).hexdigest()[:16] == "b609a69230236878"


def test_every_call_draws_on():
    parts = random(50)
    pieces = [parts.bits((3,)), parts.bits()[:, None], tf.reshape(parts.bits((2, 4)), [50, 8])]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), random(50).bits((12,)).numpy())


def test_uniform():
    """Of the plainest keys, 0 to n - 1."""
    u = random(2000).uniform((64,)).numpy()
    assert u.dtype == np.float32 and u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) <= 4 / (12 * u.size) ** 0.5
    assert abs(u.var() * 12 - 1) <= 4 * (0.8 / u.size) ** 0.5  # kurtosis 1.8
    assert chi_square(u) <= CHI_SQUARE_LIMIT
    assert chi_square(u * 4096 % 1) <= CHI_SQUARE_LIMIT  # the low bits
    for distance in (1, 2, 16):
        assert abs(correlation(u[distance:], u[:-distance])) <= 4 / u.size**0.5
        assert abs(correlation(u[:, distance:], u[:, :-distance])) <= 4 / u.size**0.5


def test_normal():
    x = random(2000).normal((64,)).numpy().astype(np.float64)
    assert abs(x.mean()) <= 4 / x.size**0.5
    assert abs(x.var() - 1) <= 4 * (2 / x.size) ** 0.5
    assert abs((x**3).mean()) <= 4 * (15 / x.size) ** 0.5
    assert abs((x**4).mean() - 2.7) <= 4 * (60 / x.size) ** 0.5  # of four uniforms: 3 - 1.2 / 4
    assert np.abs(x).max() <= 3.4506


def test_streams_of_an_augmentation():
    """Numbers of other names, seeds, epochs and examples have nothing to do with each other."""
    base = drawn()
    assert chi_square(base) <= CHI_SQUARE_LIMIT
    others = [drawn("flip"), drawn(seed=1), drawn(seed=2**31), drawn(epoch=1), drawn(epoch=2)]
    for other in (*others, np.roll(base, 1, 0), np.roll(base, 1, 1)):
        assert (base != other).mean() > 0.999
        assert abs(correlation(base, other)) <= 4 / base.size**0.5
    per_example = base[:, 0]  # a coin or an offset is one number an example
    assert abs(correlation(per_example[1:], per_example[:-1])) <= 4 / len(per_example) ** 0.5


@pytest.mark.parametrize("others", [{"flip": Flip()}, all_transforms() | {"noise2": Noise()}], ids=["one", "many"])
def test_another_transform_leaves_the_numbers_alone(others):
    others = {name: transform for name, transform in others.items() if name != "noise"}
    np.testing.assert_array_equal(drawn(others=others), drawn())

"""Models keep the contract of `src.models`, have the sizes they claim, and refuse what they cannot take."""

from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

from src.models.cnn import cnn
from src.models.cnn_pooled import cnn_pooled
from src.models.mlp import mlp
from src.models.parts import Activation, Normalization, activated, sizes_to_type
from src.models.unet import unet
from src.models.unet_mobilenet_v2 import SKIP_LAYERS, unet_mobilenet_v2

CASES = {
    "cnn": (cnn, (8, 8, 1), (10,)),
    "cnn_not_square": (cnn, (7, 12, 3), (10,)),
    "cnn_pooled": (cnn_pooled, (64, 40, 3), (10,)),
    "mlp": (mlp, (5, 3, 2), (10,)),
    "unet": (unet, (16, 16, 1), (16, 16, 10)),
    "unet_not_square": (unet, (16, 40, 3), (16, 40, 10)),
    "unet_mobilenet_v2": (unet_mobilenet_v2, (32, 64, 3), (32, 64, 10)),
}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def frozen() -> keras.Model:
    return unet_mobilenet_v2(input_shape=(32, 32, 3), num_classes=3, freeze_encoder=True)


@pytest.mark.parametrize(("build", "shape", "logits_shape"), CASES.values(), ids=CASES)
def test_contract(build, shape, logits_shape):
    model = build(input_shape=shape, num_classes=10)
    assert model.built and model.input_shape == (None, *shape)
    for training in (False, True):
        logits = model(images(2, *shape), training=training)
        assert logits.shape == (2, *logits_shape) and logits.dtype == "float32"
        assert np.isfinite(logits).all()
    assert (np.asarray(logits) < 0).any()  # logits, not probabilities


@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (cnn, {}),
        *((build, {"normalization": name}) for build in (mlp, unet) for name in get_args(Normalization)),
        (unet_mobilenet_v2, {"alpha": 0.35}),
    ],
)
def test_logits_are_float32_under_mixed_precision(build, options, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build(input_shape=(32, 32, 3), num_classes=2, **options)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.layers[-2].compute_dtype == policy.removeprefix("mixed_")
    assert model.output.dtype == "float32"
    if build is not unet_mobilenet_v2:
        assert np.isfinite(model(images(2, 32, 32, 3), training=True)).all()


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (lambda: cnn(input_shape=(8, 8, 1), num_classes=10), 13_706),
        (lambda: mlp(input_shape=(8, 8, 1), num_classes=10), 17_226),
        (lambda: mlp(input_shape=(8, 8, 1), num_classes=10, hidden_units=[]), 650),
        (lambda: unet(input_shape=(48, 48, 3), num_classes=11), 273_095),
        # The number that TensorFlow's tutorial prints.
        (lambda: unet_mobilenet_v2(input_shape=(128, 128, 3), num_classes=3), 6_504_227),
    ],
    ids=["cnn", "mlp", "linear", "unet", "unet_mobilenet_v2"],
)
def test_parameters(model, parameters):
    assert model().count_params() == parameters


@pytest.mark.parametrize("build", [cnn, cnn_pooled, mlp, unet])
def test_same_names_when_built_again(build):
    models = [build(input_shape=(16, 16, 1), num_classes=2) for _ in range(2)]
    first, second = ([w.path for w in model.weights] for model in models)
    assert first == second and len(set(first)) == len(first)


@pytest.mark.parametrize("build", [cnn, cnn_pooled, mlp, unet])
def test_dropout_only_in_training_and_only_when_asked(build):
    x = images(2, 16, 16, 1)
    plain = build(input_shape=(16, 16, 1), num_classes=2)
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in plain.layers)
    model = build(input_shape=(16, 16, 1), num_classes=2, dropout=0.5)
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))
    assert not np.array_equal(model(x, training=True), model(x, training=True))


def test_pooling_makes_the_size_cost_nothing():
    counts = {size: cnn_pooled(input_shape=(size, size, 3), num_classes=3).count_params() for size in (8, 64, 200)}
    assert set(counts.values()) == {98_547} and cnn(input_shape=(48, 48, 3), num_classes=3).count_params() > 900_000
    with pytest.raises(ValueError, match="at least 8 pixels a side, not 8x7"):
        cnn_pooled(input_shape=(8, 7, 3), num_classes=3)


def test_unet_levels():
    model = unet(input_shape=(16, 16, 1), num_classes=2, filters=4, depth=2)
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}
    assert shapes["down_0_relu_2"] == shapes["up_0_relu_2"] == (16, 16, 4)
    assert shapes["down_1_relu_2"] == shapes["up_1_relu_2"] == (8, 8, 8)
    assert shapes["bottom_relu_2"] == (4, 4, 16)
    assert shapes["up_0_concat"] == (16, 16, 8)


NORMS = {
    "batch": keras.layers.BatchNormalization,
    "layer": keras.layers.LayerNormalization,
    "group": keras.layers.GroupNormalization,
}


@pytest.mark.parametrize(("build", "sites"), [(cnn, 2), (cnn_pooled, 4), (mlp, 2), (unet, 14)])
@pytest.mark.parametrize("normalization", get_args(Normalization))
def test_normalization_takes_the_place_of_the_bias(build, sites, normalization):
    model = build(input_shape=(8, 8, 1), num_classes=2, normalization=normalization)
    found = [type(layer) for layer in model.layers if isinstance(layer, tuple(NORMS.values()))]
    assert found == [NORMS[normalization]] * sites if normalization != "none" else not found
    inner = [layer for layer in model.layers if "conv_" in layer.name or "dense_" in layer.name]
    assert len(inner) == sites and {layer.use_bias for layer in inner} == {normalization == "none"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("build", [cnn, unet])
def test_normalization_left_open_is_what_batch_norm_says(build):
    def names(**options) -> list[str]:
        return [w.path for w in build(input_shape=(8, 8, 1), num_classes=2, **options).weights]

    for batch_norm, normalization in ((True, "batch"), (False, "none")):
        assert names(batch_norm=batch_norm) == names(normalization=normalization)
        assert names(batch_norm=not batch_norm, normalization=normalization) == names(normalization=normalization)


def test_group_normalization_is_that_of_its_paper():
    """Mean 0 and variance 1 over all pixels and the channels of a group, 12 channels in 4 groups."""
    model = unet(input_shape=(8, 8, 3), num_classes=2, normalization="group")
    layer = model.get_layer("down_0_norm_1")
    assert layer.groups == 4
    groups = np.asarray(layer(7 * images(2, 8, 8, 12) + 3)).reshape(2, 64, 4, 3)
    np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(groups.var((1, 3)), 1, atol=1e-2)


def test_activations():
    """All are Keras's, and no two alike."""
    x = keras.Input((1,))
    model = keras.Model(x, [activated(x, name, name=name) for name in get_args(Activation)])
    values = np.array(model(np.float32([[-4], [-0.7], [0.4], [7]])))
    assert len({tuple(value.ravel()) for value in values}) == len(get_args(Activation))
    for build in (cnn, mlp, unet):
        layers = build(input_shape=(8, 8, 1), num_classes=2, activation="gelu").layers
        assert keras.activations.relu not in [getattr(layer, "activation", None) for layer in layers]


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        *((build, {"dropout": 2}, r"dropout is 2; it must be a number at least 0 and below 1")
          for build in (cnn, mlp, unet, unet_mobilenet_v2)),
        (unet, {"dropout": float("nan")}, "dropout is nan; it must be"),
        (cnn, {"dropout": 1.0}, r"dropout is 1\.0; it must be"),
        (unet, {"filters": 0}, "filters is 0; it must be an integer at least 1"),
        (unet, {"depth": 0}, "depth is 0; it must be an integer at least 1"),
        (cnn, {"dense": -1}, "dense is -1; it must be an integer at least 1"),
        (unet, {"activation": "rleu"}, r"activation is 'rleu'; it must be one of relu, .*Did you mean relu\?"),
        (mlp, {"normalization": "bach"}, r"normalization is 'bach'; it must be one of batch, .*Did you mean batch\?"),
        (mlp, {"hidden_units": [8, 0]}, r"hidden_units is \[8, 0\]; it must be a list of integers at least 1"),
        (mlp, {"hidden_units": 8}, "hidden_units is 8; it must be a list"),
        (unet_mobilenet_v2, {"alpha": 0}, "alpha is 0; it must be a number above 0"),
        (unet_mobilenet_v2, {"alpha": 0.4, "weights": "imagenet"}, r"alpha is 0\.4; it must be one of 0\.35, 0\.5"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_named(build, options, message):
    with pytest.raises(ValueError, match=rf"^(model\.)?{message}"):
        build(input_shape=(32, 32, 3), num_classes=2, **options)


def test_mobilenet_may_be_narrower_and_drop_out():
    model = unet_mobilenet_v2(input_shape=(32, 32, 3), num_classes=3, alpha=0.35, dropout=0.5)
    assert model.get_layer("encoder").count_params() < 400_000
    x = images(2, 32, 32, 3)
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))
    assert model.layers[-2].name == "dropout"


@pytest.mark.parametrize("shape", [(48, 44, 3), (20, 48, 3), (None, None, 3)])
def test_unet_refuses_sizes_it_cannot_halve(shape):
    height, width, _ = shape
    with pytest.raises(ValueError, match=rf"multiples of 8, not {height}x{width}: resize .* model\.depth"):
        unet(input_shape=shape, num_classes=2)


def test_sizes_that_would_do_are_named():
    assert sizes_to_type((50, 50), 8) == "as with data.image_size=48 or 56"
    assert sizes_to_type((50, 64), 8) == "as with data.image_size=[48,64] or [56,64]"
    assert sizes_to_type((3, 3), 8) == "as with data.image_size=8"
    assert sizes_to_type((None, None), 32) == "as with data.image_size=128"


def test_cnn_refuses_tiny_images():
    with pytest.raises(ValueError, match="at least 6x6 pixels, not 8x5"):
        cnn(input_shape=(8, 5, 1), num_classes=2)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((48, 64, 3), {}, "multiples of 32, not 48x64: resize"),
        ((64, 48, 3), {}, "multiples of 32, not 64x48: resize"),
        ((64, 64, 1), {}, "3 channels, not 1"),
        ((64, 64, 3), {"weights": "imagnet"}, "weights is 'imagnet'; it must be one of imagenet, or null"),
    ],
)
def test_mobilenet_refuses(shape, options, message):
    with pytest.raises(ValueError, match=message):
        unet_mobilenet_v2(input_shape=shape, num_classes=2, **options)


def test_mobilenet_without_network_says_the_way_out(monkeypatch):
    def fail(**_):
        raise Exception("URL fetch failure")  # what keras.utils.get_file raises

    monkeypatch.setattr(keras.applications, "MobileNetV2", fail)
    with pytest.raises(RuntimeError, match=r"URL fetch failure.*model\.weights=null.*\.keras/models"):
        unet_mobilenet_v2(input_shape=(32, 32, 3), num_classes=2, weights="imagenet")


def test_mobilenet_skips_are_the_five_named_layers(frozen):
    assert SKIP_LAYERS == (
        "block_1_expand_relu",
        "block_3_expand_relu",
        "block_6_expand_relu",
        "block_13_expand_relu",
        "block_16_project",
    )
    encoder = frozen.get_layer("encoder")
    assert tuple(output._keras_history.operation.name for output in encoder.outputs) == SKIP_LAYERS
    assert [output.shape[1] for output in encoder.outputs] == [16, 8, 4, 2, 1]
    assert [frozen.get_layer(f"up_{i}_relu").output.shape[1:] for i in (1, 2, 3, 4)] == [
        (2, 2, 512),
        (4, 4, 256),
        (8, 8, 128),
        (16, 16, 64),
    ]


def test_mobilenet_encoder_sees_minus_one_to_one(frozen):
    rescale = frozen.get_layer("rescale")
    np.testing.assert_array_equal(rescale(np.float32([0, 0.5, 1])), [-1, 0, 1])


def test_frozen_encoder_does_not_move(frozen):
    encoder = frozen.get_layer("encoder")
    assert not encoder.trainable_weights
    assert [v.path.split("/")[0] for v in frozen.trainable_weights] == [
        *(name for i in (1, 2, 3, 4) for name in (f"up_{i}_conv", f"up_{i}_norm", f"up_{i}_norm")),
        *("logits", "logits"),
    ]
    x = images(4, 32, 32, 3)
    weights = [w.numpy() for w in encoder.weights]
    np.testing.assert_array_equal(encoder(x, training=True)[-1], encoder(x, training=False)[-1])
    norm = frozen.get_layer("up_1_norm").moving_variance
    before = norm.numpy()
    frozen(x, training=True)
    assert not np.array_equal(norm, before)  # the up stack does learn
    for old, new in zip(weights, encoder.weights, strict=True):
        np.testing.assert_array_equal(new, old)


def test_unfrozen_encoder_moves():
    model = unet_mobilenet_v2(input_shape=(32, 32, 3), num_classes=3)
    norm = model.get_layer("encoder").get_layer("bn_Conv1")
    assert norm.trainable and norm.momentum == 0.9
    before = norm.moving_mean.numpy()
    model(images(4, 32, 32, 3), training=True)
    assert not np.array_equal(norm.moving_mean, before)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("build", "options"), [(cnn, {}), (mlp, {}), (unet, {"filters": 4, "depth": 1})])
def test_overfits_one_batch(build, options):
    keras.utils.set_random_seed(0)
    x = images(8, 8, 8, 1)
    model = build(input_shape=(8, 8, 1), num_classes=2, **options)
    pixels = x[..., 0] > 0.5
    labels = np.int32(pixels if build is unet else pixels[:, 0, 0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    model.fit(tf.data.Dataset.from_tensors((x, labels)).repeat(60), shuffle=False, verbose=0)
    assert float(loss(labels, model(x, training=True))) < 0.2

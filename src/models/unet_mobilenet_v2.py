"""U-Net with a MobileNetV2 encoder, as in TensorFlow's image segmentation tutorial.

    from src.models.unet_mobilenet_v2 import unet_mobilenet_v2

    model = unet_mobilenet_v2(input_shape=(128, 128, 3), num_classes=3, weights="imagenet")

Source: https://www.tensorflow.org/tutorials/images/segmentation
"""

from typing import Literal

import keras
from keras import layers

from src.common.ranges import Positive, Share, enforce_ranges
from src.models.parts import sizes_to_type

SKIP_LAYERS = (  # from 1/2 to 1/32 of the input's size
    "block_1_expand_relu",
    "block_3_expand_relu",
    "block_6_expand_relu",
    "block_13_expand_relu",
    "block_16_project",
)
UP_FILTERS = (512, 256, 128, 64)  # from 1/16 to 1/2
IMAGENET_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # those that Keras has weights of


@enforce_ranges
def unet_mobilenet_v2(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    weights: Literal["imagenet"] | None = None,
    freeze_encoder: bool = False,
    alpha: Positive | None = None,
    dropout: Share | None = None,
) -> keras.Model:
    """MobileNetV2 down, five named layers as skips, transposed convolutions up.

    Maps float32 images [N, H, W, 3] in [0, 1] to float32 logits [N, H, W, num_classes].
    `weights` of the encoder: None (random) or "imagenet" (downloaded once). `freeze_encoder` keeps the
    encoder's weights as they are and its batch normalisation in inference mode, even with `training=True`. `alpha`
    is MobileNetV2's width, above 0; left open, 1. `dropout` in [0, 1) applies before the last layer.

    Raises:
        ValueError: an option is out of its range, C is not 3, or H or W is not a multiple of 32.
        RuntimeError: the ImageNet weights are not cached and cannot be downloaded.
    """
    height, width, channels = input_shape
    alpha, dropout = 1.0 if alpha is None else alpha, dropout or 0.0
    if weights and alpha not in IMAGENET_ALPHAS:
        allowed = ", ".join(map(str, IMAGENET_ALPHAS))
        raise ValueError(f"model.alpha is {alpha}; it must be one of {allowed} with these weights")
    if channels != 3:
        raise ValueError(f"unet_mobilenet_v2 takes images of 3 channels, not {channels}: load them as RGB")
    if not all(size and size % 32 == 0 for size in (height, width)):
        raise ValueError(
            "unet_mobilenet_v2 takes images whose height and width are multiples of 32, "
            f"not {height}x{width}: resize them, {sizes_to_type((height, width), 32)}"
        )

    images = keras.Input(input_shape, name="images")
    encoder = _encoder(input_shape, weights, alpha)
    encoder.trainable = not freeze_encoder
    # MobileNetV2 was trained on [-1, 1].
    *skips, x = encoder(layers.Rescaling(2.0, offset=-1.0, name="rescale")(images))

    for i, (filters, skip) in enumerate(zip(UP_FILTERS, reversed(skips), strict=True), start=1):
        x = layers.Conv2DTranspose(
            filters,
            3,
            strides=2,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name=f"up_{i}_conv",
        )(x)
        x = layers.BatchNormalization(name=f"up_{i}_norm")(x)
        x = layers.ReLU(name=f"up_{i}_relu")(x)
        x = layers.Concatenate(name=f"up_{i}_concat")([x, skip])

    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    # float32 under any dtype policy, as the contract says.
    head = layers.Conv2DTranspose(num_classes, 3, strides=2, padding="same", dtype="float32", name="logits")
    return keras.Model(images, head(x), name="unet_mobilenet_v2")


def _encoder(input_shape: tuple[int, int, int], weights: str | None, alpha: float) -> keras.Model:
    """MobileNetV2 up to its last skip layer; returns the five feature maps, largest first."""
    try:
        base = keras.applications.MobileNetV2(input_shape=input_shape, include_top=False, weights=weights, alpha=alpha)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if weights is None:
            raise
        raise RuntimeError(
            f"cannot load MobileNetV2's ImageNet weights ({error}): set model.weights=null, or run once "
            "where there is network; Keras then keeps them in ~/.keras/models (or $KERAS_HOME/models)"
        ) from error
    if weights is None:
        # MobileNetV2's momentum, 0.999, suits fine-tuning. From random weights its moving averages take
        # thousands of steps to arrive; until then validation is useless (mean IoU 0.08, not 0.32, after 250).
        for layer in base.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.9
    return keras.Model(base.input, [base.get_layer(name).output for name in SKIP_LAYERS], name="encoder")

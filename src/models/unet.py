"""Classical U-Net for segmentation, small by default.

    from src.models.unet import unet

    model = unet(input_shape=(48, 48, 3), num_classes=11)  # 0.27 M parameters

Source: Ronneberger, Fischer & Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation";
padded convolutions and batch normalisation are later custom.
"""

import keras
from keras import layers

from src.common.ranges import Count, Share, enforce_ranges
from src.models.parts import Activation, Normalization, activated, chosen_normalization, normalized, sizes_to_type


@enforce_ranges
def unet(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    filters: Count = 12,
    depth: Count = 3,
    dropout: Share = 0.0,
    batch_norm: bool = True,
    normalization: Normalization | None = None,
    activation: Activation | None = None,
) -> keras.Model:
    """U-Net with `filters` channels at full size, doubled at each of `depth` halvings.

    Maps float32 images [N, H, W, C] in [0, 1] to float32 logits [N, H, W, num_classes].
    `dropout` in [0, 1) applies at the lowest level. `normalization` is `batch`, `layer`, `group` or `none`, after each
    convolution but the last; left open, `batch_norm` says `batch` or `none`. `activation` is a name of
    `src.models.parts.Activation`; left open, `relu`.

    Raises:
        ValueError: H or W is not a multiple of 2**depth, or an option is out of its range.
    """
    normalization = chosen_normalization(normalization, batch_norm=batch_norm)
    activation = activation or "relu"
    height, width, _ = input_shape
    multiple = 2**depth
    if not all(size and size % multiple == 0 for size in (height, width)):
        raise ValueError(
            f"unet halves its input {depth} times, so height and width must be multiples of {multiple}, "
            f"not {height}x{width}: resize the images, {sizes_to_type((height, width), multiple)}, "
            "or choose a smaller model.depth"
        )

    def double_conv(x: keras.KerasTensor, channels: int, name: str) -> keras.KerasTensor:
        for i in (1, 2):
            bias = normalization == "none"
            x = layers.Conv2D(channels, 3, padding="same", use_bias=bias, name=f"{name}_conv_{i}")(x)
            x = normalized(x, normalization, name=f"{name}_norm_{i}")
            x = activated(x, activation, name=f"{name}_{activation}_{i}")
        return x

    x = images = keras.Input(input_shape, name="images")
    skips = []
    for level in range(depth):
        x = double_conv(x, filters * 2**level, f"down_{level}")
        skips.append(x)
        x = layers.MaxPooling2D(name=f"down_{level}_pool")(x)

    x = double_conv(x, filters * 2**depth, "bottom")
    if dropout:
        x = layers.Dropout(dropout, name="bottom_dropout")(x)

    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(filters * 2**level, 2, strides=2, name=f"up_{level}_upsample")(x)
        x = layers.Concatenate(name=f"up_{level}_concat")([skips[level], x])
        x = double_conv(x, filters * 2**level, f"up_{level}")

    # float32 under any dtype policy, as the contract says.
    logits = layers.Conv2D(num_classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="unet")

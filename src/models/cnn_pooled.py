"""Convolutional classifier for pictures larger than digits: as many parameters whatever their size.

    from src.models.cnn_pooled import cnn_pooled

    model = cnn_pooled(input_shape=(64, 64, 3), num_classes=3)

The greatest value of each channel, where "Network In Network" (Lin, Chen & Yan 2013) takes the mean: what is seen
counts as much wherever it lies and however little of the picture it fills.
"""

import keras
from keras import layers

from src.common.ranges import Count, Share, enforce_ranges
from src.models.parts import Activation, Normalization, activated, normalized


@enforce_ranges
def cnn_pooled(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    filters: Count = 16,
    depth: Count = 4,
    dropout: Share = 0.0,
    normalization: Normalization = "batch",
    activation: Activation = "relu",
) -> keras.Model:
    """`depth` 3x3 convolutions, 2x2 max-pooling between them, and each channel's maximum over the picture.

    Maps float32 images [N, H, W, C] in [0, 1] to float32 logits [N, num_classes]. The first convolution has `filters`
    channels, each further one twice as many. `dropout` in [0, 1) applies to the maxima. `normalization` (`batch`,
    `layer`, `group` or `none`) comes after each convolution, before its `activation`, a name of
    `src.models.parts.Activation`.

    Raises:
        ValueError: H or W is less than 2**(depth - 1), or an option is out of its range.
    """
    height, width, _ = input_shape
    if min(height, width) < 2 ** (depth - 1):
        raise ValueError(
            f"cnn_pooled halves its input {depth - 1} times, so it takes images of at least {2 ** (depth - 1)} pixels "
            f"a side, not {height}x{width}: enlarge them, or choose a smaller model.depth"
        )

    x = images = keras.Input(input_shape, name="images")
    for i in range(1, depth + 1):
        x = layers.Conv2D(
            filters * 2 ** (i - 1), 3, padding="same", use_bias=normalization == "none", name=f"conv_{i}"
        )(x)
        x = normalized(x, normalization, name=f"norm_{i}")
        x = activated(x, activation, name=f"{activation}_{i}")
        if i < depth:
            x = layers.MaxPooling2D(name=f"pool_{i}")(x)
    x = layers.GlobalMaxPooling2D(name="maxima")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    # float32 under any dtype policy, as the contract says.
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="cnn_pooled")

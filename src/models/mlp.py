"""Multilayer perceptron: a classifier that knows nothing of neighbouring pixels.

    from src.models.mlp import mlp

    model = mlp(input_shape=(8, 8, 1), num_classes=10)

With the defaults and 8x8 digits it has 17,226 parameters.
"""

from collections.abc import Sequence

import keras
from keras import layers

from src.common.ranges import Share, enforce_ranges
from src.models.parts import Activation, Normalization, hidden_layers


@enforce_ranges
def mlp(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    hidden_units: Sequence[int] = (128, 64),
    dropout: Share = 0.0,
    normalization: Normalization = "none",
    activation: Activation = "relu",
) -> keras.Model:
    """A hidden layer for each of `hidden_units`; none leaves a linear model.

    Maps float32 images [N, H, W, C] in [0, 1] to float32 logits [N, num_classes]. `dropout` in [0, 1) applies after
    each hidden layer, `normalization` (`batch`, `layer`, `group` or `none`) before its `activation`, a name of
    `src.models.parts.Activation`.

    Raises:
        ValueError: an option is out of its range.
    """
    if not isinstance(hidden_units, Sequence) or not all(isinstance(n, int) and n >= 1 for n in hidden_units):
        raise ValueError(
            f"model.hidden_units is {hidden_units}; it must be a list of integers at least 1, as [128, 64]"
        )
    x = images = keras.Input(input_shape, name="images")
    x = layers.Flatten(name="flatten")(x)
    x = hidden_layers(x, hidden_units, normalization=normalization, activation=activation, dropout=dropout)
    # float32 under any dtype policy, as the contract says.
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="mlp")

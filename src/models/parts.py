"""What several architectures are made of.

x = normalized(x, "group", name="norm_1")
x = activated(x, "gelu", name="gelu_1")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import keras
from keras import layers

Activation = Literal[
    "relu", "leaky_relu", "relu6", "elu", "selu", "gelu", "silu", "mish", "softplus", "hard_silu",
    "tanh", "sigmoid", "linear",
]  # fmt: skip
Normalization = Literal["batch", "layer", "group", "none"]


def sizes_to_type(shape: tuple[int | None, int | None], multiple: int) -> str:
    """The nearest heights and widths that are multiples, as `as with data.image_size=48 or 56`."""
    sizes = [size or 4 * multiple for size in shape]
    below = [max(size // multiple, 1) * multiple for size in sizes]
    above = [-(-size // multiple) * multiple for size in sizes]
    choices = dict.fromkeys(str(h) if h == w else f"[{h},{w}]" for h, w in (below, above))
    return f"as with data.image_size={' or '.join(choices)}"


def normalized(x: keras.KerasTensor, normalization: Normalization, *, name: str) -> keras.KerasTensor:
    """Of a Normalization: over the batch, or over the channels of each pixel or unit, or of gcd(channels, 8) groups.

    Group normalisation is over all pixels of an example (Wu & He 2018, "Group Normalization"). All but `none` shift,
    so that a layer before them needs no bias.
    """
    match normalization:
        case "batch":
            # Keras's default momentum, 0.99, lags behind the weights for the first few hundred steps.
            return layers.BatchNormalization(momentum=0.9, name=name)(x)
        case "layer":
            return layers.LayerNormalization(name=name)(x)
        case "group":
            return layers.GroupNormalization(groups=math.gcd(x.shape[-1], 8), name=name)(x)
    return x


def activated(x: keras.KerasTensor, activation: Activation, *, name: str) -> keras.KerasTensor:
    """Of an Activation."""
    return layers.Activation(activation, name=name)(x)


def hidden_layers(
    x: keras.KerasTensor,
    hidden_units: Sequence[int],
    *,
    normalization: Normalization,
    activation: Activation,
    dropout: float,
) -> keras.KerasTensor:
    """A dense layer for each of `hidden_units`, normalized, activated and, where `dropout` is above 0, dropped out."""
    for i, units in enumerate(hidden_units, start=1):
        x = layers.Dense(units, use_bias=normalization == "none", name=f"dense_{i}")(x)
        x = normalized(x, normalization, name=f"norm_{i}")
        x = activated(x, activation, name=f"{activation}_{i}")
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout_{i}")(x)
    return x


def chosen_normalization(normalization: Normalization | None, *, batch_norm: bool) -> Normalization:
    """`batch_norm` decides where `normalization` is left open."""
    return normalization or ("batch" if batch_norm else "none")

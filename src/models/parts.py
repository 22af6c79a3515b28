"""What several architectures are made of, with their options' checks.

check_options(filters=12, dropout=0.2, activation="gelu")
x = normalized(x, "group", name="norm_1")
x = activated(x, "gelu", name="gelu_1")
"""

from __future__ import annotations

import difflib
import math

import keras
from keras import layers

ACTIVATIONS = (
    *("relu", "leaky_relu", "relu6", "elu", "selu", "gelu", "silu", "mish", "softplus", "hard_silu"),
    *("tanh", "sigmoid", "linear"),
)
NORMALIZATIONS = ("batch", "layer", "group", "none")


def check_options(
    *,
    dropout: float = 0.0,
    activation: str = "relu",
    normalization: str = "none",
    **counts: int,
) -> None:
    """Raise ValueError naming `model.<key>`: dropout in [0, 1), a known name, each of `counts` an integer above 0."""
    for key, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"model.{key} is {count}; it must be an integer at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"model.dropout is {dropout}; it must be at least 0 and below 1")
    for key, name, known in (
        ("activation", activation, ACTIVATIONS),
        ("normalization", normalization, NORMALIZATIONS),
    ):
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f". Did you mean {close[0]}?" if close else ""
            raise ValueError(f"model.{key} is {name!r}; it must be one of {', '.join(known)}{hint}")


def sizes_to_type(shape: tuple[int | None, int | None], multiple: int) -> str:
    """The nearest heights and widths that are multiples, as `as with data.image_size=48 or 56`."""
    sizes = [size or 4 * multiple for size in shape]
    below = [max(size // multiple, 1) * multiple for size in sizes]
    above = [-(-size // multiple) * multiple for size in sizes]
    choices = dict.fromkeys(str(h) if h == w else f"[{h},{w}]" for h, w in (below, above))
    return f"as with data.image_size={' or '.join(choices)}"


def normalized(x: keras.KerasTensor, normalization: str, *, name: str) -> keras.KerasTensor:
    """Of NORMALIZATIONS: over the batch, or over the channels of each pixel or unit, or of gcd(channels, 8) groups.

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


def activated(x: keras.KerasTensor, activation: str, *, name: str) -> keras.KerasTensor:
    """Of ACTIVATIONS."""
    return layers.Activation(activation, name=name)(x)


def chosen_normalization(normalization: str | None, *, batch_norm: bool) -> str:
    """`batch_norm` decides where `normalization` is left open."""
    return normalization or ("batch" if batch_norm else "none")

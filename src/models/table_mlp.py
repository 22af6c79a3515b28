"""A multilayer perceptron of the columns of a table, which holds all that prepares them.

    from src.models.table_mlp import table_mlp

    model = table_mlp(data=data, num_outputs=1)
    model({"age": [[41.0]], "kind": [["a"]]})

What the layers take from the training split, such as means and vocabularies, is part of the model and of its export.
"""

import warnings
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from src.common.ranges import Count, Share, enforce_ranges
from src.data.batch import plain_name
from src.data.data import Data, scale_of
from src.models.parts import Activation, Normalization, hidden_layers


@enforce_ranges
def table_mlp(
    *,
    data: Data,
    num_outputs: Count,
    hidden_units: Sequence[Count] = (64, 32),
    dropout: Share = 0.0,
    normalization: Normalization = "none",
    activation: Activation = "relu",
) -> keras.Model:
    """A hidden layer for each of `hidden_units`; none leaves a linear model.

    Maps the columns of `data`, by name or as one tensor, to float32 [n, num_outputs]. Columns of floats [n] or [n, k]
    are normalized by the training split's mean and variance, or by the mean alone where they are constant there; those
    of integers and of strings [n] become one number for each value that the training split has, and one for all others.

    Raises:
        ValueError: an option is out of its range, or a column is of another kind.
    """
    columns = data.inputs("train")
    named = columns if isinstance(columns, dict) else {"inputs": columns}
    inputs = {
        name: keras.Input(
            values.shape[1:],
            dtype="float32" if values.dtype.is_floating else values.dtype.name,
            name=f"column.{plain_name(name)}",  # a column may be called as a layer is
        )
        for name, values in named.items()
    }
    features = [_feature(name, named[name], tensor) for name, tensor in inputs.items()]
    x = layers.Concatenate(name="features")(features) if len(features) > 1 else features[0]
    x = hidden_layers(x, hidden_units, normalization=normalization, activation=activation, dropout=dropout)
    outputs = layers.Dense(num_outputs, dtype="float32", name="outputs")(x)
    if not data.num_classes:  # numbers: the layers before have to learn what lies about 0
        mean, deviation = data.target_scale()
        outputs = layers.Rescaling(deviation, mean, dtype="float32", name="rescaled")(outputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict, all keys")  # they match the data
        return keras.Model(inputs if isinstance(columns, dict) else inputs["inputs"], outputs, name="table_mlp")


def _feature(name: str, values: tf.Tensor, tensor: keras.KerasTensor) -> keras.KerasTensor:
    """A column as numbers [n, k]."""
    plain = plain_name(name)
    if values.dtype.is_floating:
        flat = layers.Reshape((-1,), name=f"{plain}.flat")(tensor)
        layer = layers.Normalization(axis=-1, name=f"{plain}.normalized")
        mean, deviation = scale_of(values.numpy().reshape(values.shape[0], -1))
        layer.adapt(np.stack([mean - deviation, mean + deviation]))  # two rows of the same mean and variance
        return layer(flat)
    if values.shape.rank != 1:
        raise ValueError(f"column {name!r} is {values.dtype.name} {values.shape}; give one value an example, or floats")
    lookup = layers.StringLookup if values.dtype == tf.string else layers.IntegerLookup
    layer = lookup(output_mode="one_hot", name=f"{plain}.one_hot")
    layer.adapt(values)
    return layers.Flatten(name=f"{plain}.row")(layer(layers.Reshape((1,), name=f"{plain}.column")(tensor)))

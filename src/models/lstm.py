"""A recurrent network of sequences of floats, for forecasts, or of tokens.

from src.models.lstm import lstm

model = lstm(input_shape=(24, 3), num_outputs=3, horizon=12)
"""

from collections.abc import Sequence

import keras
from keras import layers

from src.common.ranges import Count, Share, enforce_ranges


@enforce_ranges
def lstm(
    *,
    input_shape: Sequence[Count],
    num_outputs: Count,
    horizon: Count | None = None,
    units: Sequence[Count] = (32,),
    dropout: Share = 0.0,
) -> keras.Model:
    """A layer for each of `units`.

    Maps float32 [n, steps, features] to float32 outputs [n, horizon, num_outputs]: the steps that follow; without a
    horizon to [n, num_outputs].

    Raises:
        ValueError: an option is out of its range, or the inputs are no sequences.
    """
    if len(input_shape) != 2:
        raise ValueError(f"inputs are {list(input_shape)}; an lstm takes sequences [steps, features]")
    x = inputs = keras.Input(tuple(input_shape), name="inputs")
    for i, count in enumerate(units, start=1):
        x = layers.LSTM(count, return_sequences=i < len(units), dropout=dropout, name=f"lstm_{i}")(x)
    x = layers.Dense(num_outputs * (horizon or 1), dtype="float32", name="outputs")(x)
    if horizon:
        x = layers.Reshape((horizon, num_outputs), name="steps")(x)
    return keras.Model(inputs, x, name="lstm")

"""A small transformer of tokens: a score of each next token, or outputs of the whole text.

    from src.models.transformer import transformer

    model = transformer(vocabulary=64, length=32, num_outputs=64, causal=True, pooled=False)
    model = transformer(vocabulary=5000, length=128, num_outputs=2)

Pre-norm blocks (Xiong et al., 2020, https://arxiv.org/abs/2002.04745) of Vaswani et al., 2017,
https://arxiv.org/abs/1706.03762, with learned positions.
"""

import keras
from keras import layers, ops

from src.common.ranges import Count, Share, enforce_ranges


@keras.saving.register_keras_serializable(package="src")
class Positions(layers.Layer):
    """Adds a learned vector for each place to float [n, t, units], t at most `length`."""

    def __init__(self, *, length: int, **options) -> None:
        super().__init__(**options)
        self.length = length
        self.supports_masking = True

    def build(self, shape) -> None:
        if shape[1] is not None and shape[1] > self.length:
            raise ValueError(f"a text has {shape[1]} tokens and the table of positions {self.length}")
        self.table = self.add_weight(shape=(self.length, shape[-1]), initializer="uniform", name="table")

    def call(self, inputs):
        return inputs + self.table[: ops.shape(inputs)[1]]

    def get_config(self):
        return {**super().get_config(), "length": self.length}


@enforce_ranges
def transformer(
    *,
    vocabulary: Count,
    length: Count,
    num_outputs: Count,
    blocks: Count = 2,
    units: Count = 64,
    heads: Count = 4,
    dropout: Share = 0.0,
    causal: bool = False,
    pooled: bool = True,
    pad: int | None = None,
) -> keras.Model:
    """Maps tokens, integers [n, length] from 0 to vocabulary - 1, to float32 outputs.

    Args:
        causal: a place sees only those before it.
        pooled: outputs [n, num_outputs], of the mean over all places but padding; else [n, length, num_outputs].
        pad: the token that stands for nothing; None if there is none. Only 0 can be one.

    Raises:
        ValueError: an option is out of its range, units are no multiple of heads, or pad is another token than 0.
    """
    if units % heads:
        raise ValueError(f"model.units is {units}; it must be a multiple of model.heads, which is {heads}")
    if pad not in (None, 0):
        raise ValueError(f"model.pad is {pad}; it must be 0 or null")
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = layers.Embedding(vocabulary, units, mask_zero=pad == 0, name="tokens_embedded")(tokens)
    x = Positions(length=length, name="positions")(x)
    for i in range(1, blocks + 1):
        y = layers.LayerNormalization(name=f"norm_{i}_1")(x)
        attention = layers.MultiHeadAttention(heads, units // heads, dropout=dropout, name=f"attention_{i}")
        x = layers.Add(name=f"add_{i}_1")([x, attention(y, y, use_causal_mask=causal)])
        y = layers.LayerNormalization(name=f"norm_{i}_2")(x)
        y = layers.Dense(4 * units, activation="gelu", name=f"dense_{i}_1")(y)
        y = layers.Dense(units, name=f"dense_{i}_2")(y)
        y = layers.Dropout(dropout, name=f"dropout_{i}")(y) if dropout else y
        x = layers.Add(name=f"add_{i}_2")([x, y])
    x = layers.LayerNormalization(name="norm")(x)
    if pooled:
        x = layers.GlobalAveragePooling1D(name="pooled")(x)
    return keras.Model(tokens, layers.Dense(num_outputs, dtype="float32", name="outputs")(x), name="transformer")

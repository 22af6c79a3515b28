"""A text classifier that holds its own tokens: an average of the words' vectors, or what a convolution finds in them.

from src.models.text_bag import text_bag

model = text_bag(data=data, num_outputs=2)
model(tf.constant(["a text", "another"]))
"""

from typing import Literal

import keras
from keras import layers

from src.common.ranges import Count, Share, enforce_ranges
from src.data.data import Data


@enforce_ranges
def text_bag(
    *,
    data: Data,
    num_outputs: Count,
    vocabulary: Count = 10_000,
    length: Count = 200,
    units: Count = 64,
    kind: Literal["bag", "cnn"] = "bag",
    dropout: Share = 0.0,
) -> keras.Model:
    """Maps strings [n] to float32 [n, num_outputs].

    Args:
        data: whose training texts the vocabulary is taken from.
        vocabulary: the most frequent words that are told apart, at most.
        length: words of a text that are looked at, the first ones.
        units: of each word's vector, and of the hidden layer.
        kind: `bag` averages the vectors, whatever their order; `cnn` takes the maximum of what a convolution over five
            words gives.

    Raises:
        ValueError: an option is out of its range.
    """
    texts = keras.Input((), dtype="string", name="text")
    words = layers.TextVectorization(vocabulary, output_sequence_length=length, name="words")
    words.adapt(data.inputs("train"))
    x = words(texts)
    x = layers.Embedding(words.vocabulary_size(), units, mask_zero=kind == "bag", name="vectors")(x)
    if kind == "cnn":
        x = layers.Conv1D(units, 5, padding="same", activation="relu", name="convolution")(x)
        x = layers.GlobalMaxPooling1D(name="pooled")(x)
    else:
        x = layers.GlobalAveragePooling1D(name="pooled")(x)
    x = layers.Dense(units, activation="relu", name="dense")(x)
    x = layers.Dropout(dropout, name="dropout")(x) if dropout else x
    return keras.Model(texts, layers.Dense(num_outputs, dtype="float32", name="outputs")(x), name="text_bag")

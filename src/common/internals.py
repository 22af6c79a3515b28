"""The private parts of TensorFlow and Keras in use, all in this file, since nothing public does what they do.

`tf_record_random_reader` reads a TFRecord at an offset and checks its CRC; the public readers go from front to back.
`op_def_registry` tells what an operation is, such as whether it has state, of operations within nested functions, which
are no `tf.Operation`. `averages_of` gives an optimizer's averages by the variables that they are of.
"""

import keras
from tensorflow.python.framework import op_def_registry
from tensorflow.python.lib.io.tf_record import tf_record_random_reader

__all__ = ["averages_of", "op_def_registry", "tf_record_random_reader"]


def averages_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable | None]:
    """Of a built optimizer with `use_ema`: the average of each trained variable, in their order."""
    return optimizer._model_variables_moving_average

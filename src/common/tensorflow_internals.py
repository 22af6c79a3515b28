"""The private parts of TensorFlow in use, all in this file, since nothing public does what they do.

`tf_record_random_reader` reads a TFRecord at an offset and checks its CRC; the public readers go from front to back.
`op_def_registry` tells what an operation is, such as whether it has state, of operations within nested functions, which
are no `tf.Operation`.
"""

from tensorflow.python.framework import op_def_registry
from tensorflow.python.lib.io.tf_record import tf_record_random_reader

__all__ = ["op_def_registry", "tf_record_random_reader"]

"""The private parts of TensorFlow and Keras in use, all in this file, since nothing public does what they do.

`tf_record_random_reader` reads a TFRecord at an offset and checks its CRC; the public readers go from front to back.
`op_def_registry` tells what an operation is, such as whether it has state, of operations within nested functions, which
are no `tf.Operation`. `averages_of` gives an optimizer's averages by the variables that they are of. `mask_of` is the
mask that layers hand on with their outputs, which Keras's own losses and metrics look at. `object_graph` is what
tf.train.Checkpoint writes beside the values of variables, and only of variables.
"""

import functools
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
from tensorflow.python.framework import op_def_registry
from tensorflow.python.lib.io.tf_record import tf_record_random_reader

__all__ = ["averages_of", "mask_of", "object_graph", "op_def_registry", "tf_record_random_reader", "with_masks"]

OBJECT_GRAPH, VARIABLE = "_CHECKPOINTABLE_OBJECT_GRAPH", ".ATTRIBUTES/VARIABLE_VALUE"  # names in a checkpoint


def averages_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable | None]:
    """Of a built optimizer with `use_ema`: the average of each trained variable, in their order."""
    return optimizer._model_variables_moving_average


def mask_of(outputs: Any) -> tf.Tensor | None:
    """A layer's outputs' mask, bool [n, ...]; None where they have none."""
    return getattr(outputs, "_keras_mask", None)


def with_masks(outputs: Any, *, of: Any) -> Any:
    """A nest of outputs with the masks that others of the same layers have."""
    for output, other in zip(tf.nest.flatten(outputs), tf.nest.flatten(of), strict=True):
        if (mask := mask_of(other)) is not None:
            output._keras_mask = mask
    return outputs


@functools.lru_cache(1)
def object_graph(keys: tuple[str, ...]) -> bytes:
    """Of a checkpoint whose variables have these names, as `model/0/.ATTRIBUTES/VARIABLE_VALUE`."""
    graph = TrackableObjectGraph()
    nodes = {"": graph.nodes.add()}
    for key in keys:
        path = ""
        for name in key.removesuffix(f"/{VARIABLE}").split("/"):
            above, path = path, f"{path}/{name}"
            if path not in nodes:
                nodes[above].children.add(node_id=len(graph.nodes), local_name=name)
                nodes[path] = graph.nodes.add()
        nodes[path].attributes.add(name="VARIABLE_VALUE", checkpoint_key=key)
    return graph.SerializeToString()

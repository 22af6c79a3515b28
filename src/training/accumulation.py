"""A batch's loss and gradients part by part, for batches that do not fit in memory.

`in_parts` is for losses that are a plain mean over examples: that of a batch is that of its parts, weighted by what
counts in them. `by_outputs` is for any loss: its gradient for the whole batch's outputs, which have been computed part
by part, goes back through each part, computed once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from src.common.internals import mask_of
from src.data.batch import Batch, Nest, batch_spec_of, examples_of
from src.training.side_effects import side_effects, written

if TYPE_CHECKING:
    from src.training.learner import Gradients, Supervised


def in_parts(learner: Supervised, *batch: Nest) -> tuple[tf.Tensor, Gradients]:
    """With the activations of only a part of the batch in memory at a time; metrics are updated."""
    examples, whole = examples_of(batch), learner.count(*batch)

    def of_part(*part: Nest) -> tuple[tf.Tensor, Gradients]:
        loss, gradients = learner.differentiate(*part)
        # Where nothing counts, what is left of the loss, as a regulariser, does.
        by_examples = tf.cast(examples_of(part) / examples, tf.float32)
        share = tf.where(whole > 0, learner.count(*part) / whole, by_examples)
        return share * loss, [
            None if g is None else tf.cast(share, g.dtype) * tf.convert_to_tensor(g) for g in gradients
        ]

    return _sum_over_parts(learner, of_part, tf.zeros([]), batch)


def by_outputs(
    learner: Supervised, inputs: Nest, targets: Nest = None, weights: Nest = None
) -> tuple[tf.Tensor, Gradients]:
    """In parts, for any loss; metrics are updated."""
    examples, one = learner.examples_in_step(inputs), learner.scaled(tf.ones([]))
    outputs = _outputs_of_parts(learner, inputs)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        forward = learner.compare(targets, outputs, weights)
        loss = tf.cast(forward.loss, tf.float32)
        scaled = learner.scaled(loss)
    slopes = tape.gradient(scaled, outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def of_part(inputs: Nest, slopes: Nest) -> tuple[tf.Tensor, Gradients]:
        share = tf.cast(examples_of(inputs) / examples, tf.float32)
        with tf.GradientTape() as back:
            outputs = tf.nest.flatten(learner.model(inputs, training=True))
            added = share * tf.add_n([tf.zeros([]), *(tf.cast(term, tf.float32) for term in learner.model.losses)])
        variables, slopes = learner.model.trainable_variables, tf.nest.flatten(slopes)
        return added, learner.unscaled(back.gradient([*outputs, added], variables, output_gradients=[*slopes, one]))

    loss, gradients = _sum_over_parts(learner, of_part, loss, (inputs, slopes))
    learner.update_metrics(loss, forward, inputs, targets)
    return loss, gradients


def refuse_mask(outputs: Nest) -> None:
    """Raise ValueError where one of a model's outputs has a mask, which parts of a batch would lose."""
    if any(mask_of(part) is not None for part in tf.nest.flatten(outputs)):
        raise ValueError(
            "gradient_accumulation_steps does not go with outputs that have a mask, whose mean is over what is "
            "not masked; leave the parts out, or name the padding as ignore_label instead of mask_zero"
        )


def changed_by_layers(model: keras.Model, input_spec: Nest) -> list[keras.Variable]:
    """The model's variables that a forward pass changes while training."""
    with tf.init_scope():
        return _changed(_graph(model, input_spec), model)


def _sum_over_parts(
    learner: Supervised, of_part: Callable[..., tuple[tf.Tensor, Gradients]], loss: tf.Tensor, batch: Batch
) -> tuple[tf.Tensor, Gradients]:
    """`loss`, and gradients of 0, with what `of_part` gives of each part of the batch added to them."""
    examples, size = _sizes(learner, batch)

    def add(start, loss, totals):
        added, gradients = of_part(*tf.nest.map_structure(lambda tensor: tensor[start : start + size], batch))
        pairs = zip(totals, gradients, strict=True)
        totals = [total if g is None else total + tf.convert_to_tensor(g) for total, g in pairs]
        return start + size, loss + added, totals

    begin = (tf.constant(0), loss, [tf.zeros(v.shape, v.dtype) for v in learner.model.trainable_variables])
    _, loss, gradients = tf.while_loop(lambda start, *_: start < examples, add, begin)
    return loss, gradients


def _outputs_of_parts(learner: Supervised, inputs: Nest) -> Nest:
    """The whole batch's outputs; what layers keep is as it was before, so that the same is computed again."""
    examples, size = _sizes(learner, inputs)
    with tf.init_scope():
        graph = _graph(learner.model, batch_spec_of(inputs))
        changed, output_spec = _changed(graph, learner.model), batch_spec_of(graph.structured_outputs)
    before = [tf.identity(v.value) for v in changed]

    def add(start, outputs):
        part = learner.model(tf.nest.map_structure(lambda tensor: tensor[start : start + size], inputs), training=True)
        refuse_mask(part)
        written = zip(outputs, tf.nest.flatten(part), strict=True)
        return start + size, [array.write(start // size, tensor) for array, tensor in written]

    arrays = [
        tf.TensorArray(of.dtype, element_shape=of.shape, size=0, dynamic_size=True, infer_shape=False)
        for of in tf.nest.flatten(output_spec)
    ]
    _, arrays = tf.while_loop(lambda start, _: start < examples, add, (tf.constant(0), arrays))
    outputs = [
        tf.ensure_shape(array.concat(), of.shape)
        for array, of in zip(arrays, tf.nest.flatten(output_spec), strict=True)
    ]
    for variable, value in zip(changed, before, strict=True):
        variable.assign(value)
    return tf.nest.pack_sequence_as(output_spec, outputs)


def _graph(model: keras.Model, input_spec: Nest) -> tf.types.experimental.ConcreteFunction:
    def call(inputs: Nest) -> Nest:
        return model(inputs, training=True)

    return tf.function(call, autograph=False).get_concrete_function(input_spec)


def _changed(graph: tf.types.experimental.ConcreteFunction, model: keras.Model) -> list[keras.Variable]:
    return written(side_effects(graph), model.variables)


def _sizes(learner: Supervised, batch: Nest) -> tuple[tf.Tensor, tf.Tensor]:
    """Examples of a batch, and of each of its parts but a shorter last one: int32 []."""
    examples = examples_of(batch)
    return examples, -(-examples // learner.parts)

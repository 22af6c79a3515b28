"""What a graph does beside computing its outputs: what it writes, and what comes out otherwise each time it runs.

    effects = side_effects(function.get_concrete_function(...))
    check_resumable(effects, saved=state.variables, ...)    # ValueError: layer 'noise': RandomUniform draws ...

A run that is interrupted goes on exactly only if all that a step changes is in its checkpoints. A variable that is only
read is no effect: its hash is kept instead, and an interrupted run finds the same one or does not go on. What Python
does while a graph is made, such as counting calls, is in no graph.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from src.common.internals import op_def_registry

# Of ops that take a resource, those that leave it as it is.
READS = frozenset(
    [
        *("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"),
        *("LookupTableFindV2", "LookupTableSizeV2", "LookupTableExportV2"),
    ]
)
# What goes out of the graph and never comes back.
SUMMARIES = frozenset(
    [
        *("WriteSummary", "WriteScalarSummary", "WriteHistogramSummary", "WriteImageSummary", "WriteAudioSummary"),
        *("WriteRawProtoSummary", "FlushSummaryWriter"),
    ]
)
# Stateful in TensorFlow's books, so that they are neither moved nor left out, though they hold nothing.
HARMLESS = frozenset(
    [
        *("Assert", "PrintV2", "CheckNumerics", "CheckNumericsV2", "StatelessRandomGetAlg"),
        *("CollectiveReduceV2", "CollectiveGatherV2"),  # of the replicas of one step
    ]
)
# Ops that call functions: the attributes that name these, and how many inputs are not theirs. In a loop and a branch
# names are those of the graph around, in a tf.function they begin anew.
CALLS: Mapping[str, tuple[tuple[str, ...], int]] = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), (("f",), 0)),
    **dict.fromkeys(("While", "StatelessWhile"), (("cond", "body"), 0)),
    **dict.fromkeys(("If", "StatelessIf"), (("then_branch", "else_branch"), 1)),
    **dict.fromkeys(("Case", "StatelessCase"), (("branches",), 1)),
}
RANDOM = ("Rng", "StatefulRandom", "StatefulUniform", "StatefulStandardNormal", "StatefulTruncated", "NonDeterministic")
SHOWN = 12  # effects in a message

Sources = dict[tuple[str, int], int | None]  # resources by node and output: places among the captured, None: arguments


@dataclass(frozen=True)
class SideEffect:
    """An op that writes a resource, or that comes out otherwise each time.

    Attributes:
        op: its type, as `AssignVariableOp`.
        path: its name, as `functional/dense/AssignVariableOp`.
        resource: the captured handle that it writes, if it does.
    """

    op: str
    path: str
    resource: tf.Tensor | None = None


def side_effects(function: tf.types.experimental.ConcreteFunction) -> list[SideEffect]:
    """The effects of a graph and of all functions that it calls; what it does to its arguments is left out."""
    definition, captured = function.graph.as_graph_def(), function.captured_inputs
    places = [None] * (len(function.inputs) - len(captured)) + list(range(len(captured)))
    given = {
        (tensor.op.name, 0): place
        for tensor, place in zip(function.inputs, places, strict=True)
        if tensor.dtype == tf.resource
    }
    walk = _Walk({f.signature.name: f for f in definition.library.function})
    walk.follow(definition.node, given)
    return [SideEffect(op, path, None if place is None else captured[place]) for (op, path, place) in walk.found]


def written(effects: Iterable[SideEffect], variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    """Those of the variables that are written."""
    handles = {id(effect.resource) for effect in effects if effect.resource is not None}
    return [variable for variable in variables if not handles.isdisjoint(_handles(variable.value))]


def constants(variables: Iterable[tf.Variable], *, saved: Iterable[tf.Variable]) -> dict[str, list[str]]:
    """The SHA-256 of each variable that is not saved, by name; of several of one name in their own order."""
    handles = {handle for variable in saved for handle in _handles(variable)}
    found: dict[str, list[str]] = {}
    for variable in variables:
        if handles.isdisjoint(_handles(variable)):
            content = tf.io.serialize_tensor(variable).numpy()
            found.setdefault(variable.name.removesuffix(":0"), []).append(hashlib.sha256(content).hexdigest())
    return {name: sorted(hashes) for name, hashes in sorted(found.items())}


def check_resumable(
    effects: Iterable[SideEffect],
    *,
    saved: Iterable[keras.Variable],
    others: Iterable[tf.Variable],
    model: keras.Model,
) -> None:
    """Refuse what a checkpoint cannot bring back.

    Args:
        saved: all variables that a checkpoint has.
        others: variables that the graph uses, for their names.
        model: for its layers' names.

    Raises:
        ValueError: an op draws random numbers, runs Python or writes what is not saved; naming each, its layer and the
            way out.
    """
    handles = {handle for variable in saved for handle in _handles(variable.value)}
    names = {handle: variable.name.removesuffix(":0") for variable in others for handle in _handles(variable)}
    layers = {layer.name for layer in inner_layers(model)}
    found: dict[tuple[str, str, str], str] = {}
    for effect in effects:
        if id(effect.resource) not in handles:
            what, way_out = _described(effect, names)
            found.setdefault((place := _place(effect.path, layers), what, way_out), f"{place}: {what} ({effect.path})")
    if not found:
        return
    ways_out = dict.fromkeys(way_out for _, _, way_out in found)
    more = f"\nand {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise ValueError(
        "a checkpoint cannot hold all that this changes, so an interrupted run would not go on as it was:\n"
        + "\n".join([*found.values()][:SHOWN])
        + more
        + "\n"
        + "\n".join(ways_out)
    )


def _handles(variable: tf.Variable) -> set[int]:
    """The identities of its handles, one for each replica that has it."""
    each = variable.values if isinstance(variable, tf.distribute.DistributedValues) else [variable]
    return {id(of_one.handle) for of_one in each}


class _Walk:
    """Follows resources from a graph's inputs through the functions that it calls."""

    def __init__(self, library: Mapping[str, Any]) -> None:
        self.found: dict[tuple[str, str, int | None], None] = {}  # op, path, place of the captured resource
        self._library, self._prefix = library, ""
        self._results: dict[tuple, dict[int, int | None]] = {}

    def follow(self, nodes: Iterable[Any], sources: Sources) -> None:
        """Go through nodes in their order; adds to `sources` what they pass on."""
        holders = {name for name, _ in sources}
        for node in nodes:
            given = {}
            for place, text in enumerate(node.input):  # those that only wait for a node come last
                if text.partition(":")[0] in holders and _output(text) in sources:
                    given[place] = sources[_output(text)]
            for place, source in self._passed_on(node, given).items():
                sources[node.name, place] = source
                holders.add(node.name)

    def _passed_on(self, node: Any, given: dict[int, int | None]) -> dict[int, int | None]:
        """The resources among a node's outputs, of those among its inputs."""
        if node.op in ("Identity", "IdentityN"):
            return given
        if node.op in self._library:
            return self._call(node.op, given)
        if node.op in CALLS:
            attributes, own = CALLS[node.op]
            arguments = {place - own: source for place, source in given.items() if place >= own}
            outer, self._prefix = self._prefix, self._prefix + (f"{node.name}/" if attributes == ("f",) else "")
            results = [self._call(name, arguments) for name in _functions(node, attributes)]
            self._prefix = outer
            return results[-1]
        for name in _functions(node, _traits(node.op).functions):  # of which it is not known what they are given
            self._call(name, {})
        self._note(node, given)
        return {}

    def _call(self, name: str, given: dict[int, int | None]) -> dict[int, int | None]:
        key = name, *sorted(given.items(), key=str)
        if key not in self._results:
            function = self._library[name]
            arguments = [argument.name for argument in function.signature.input_arg]
            sources: Sources = {(arguments[place], 0): source for place, source in given.items()}
            self.follow(function.node_def, sources)
            outputs = [_output(function.ret[output.name]) for output in function.signature.output_arg]
            self._results[key] = {place: sources[out] for place, out in enumerate(outputs) if out in sources}
        return self._results[key]

    def _note(self, node: Any, given: dict[int, int | None]) -> None:
        if node.op in READS or node.op in SUMMARIES or node.op in HARMLESS:
            return
        captured = [place for place in given.values() if place is not None]
        for place in captured if given else [None] * _differs(node):
            self.found[node.op, self._prefix + node.name, place] = None


def _differs(node: Any) -> bool:
    """Whether an op that takes no resource comes out otherwise each time, or is not known well enough."""
    if node.op in ("FractionalMaxPool", "FractionalAvgPool"):  # random, and yet not called stateful
        return not node.attr["deterministic"].b
    if node.op.startswith("CudnnRNN"):  # called stateful for the dropout that it may have
        return node.attr["dropout"].f > 0
    return _traits(node.op).stateful


@dataclass(frozen=True)
class _Traits:
    """Of an op: whether TensorFlow calls it stateful, whether it draws numbers, and which attributes are functions."""

    stateful: bool
    random: bool
    functions: tuple[str, ...]


@functools.cache
def _traits(op: str) -> _Traits:
    definition = op_def_registry.get(op)
    if definition is None:
        return _Traits(stateful=True, random=False, functions=())
    names = {attribute.name: attribute.type for attribute in definition.attr}
    is_random = "seed" in names or op.startswith(RANDOM)
    functions = tuple(name for name, kind in names.items() if kind in ("func", "list(func)"))
    return _Traits(definition.is_stateful, is_random, functions)


def _output(text: str) -> tuple[str, int]:
    """The node and the output's number of an input as graphs and functions write it: a, a:1 or a:output:1."""
    name, *rest = text.split(":")
    return name, int(rest[-1]) if rest else 0


def _functions(node: Any, attributes: Iterable[str]) -> Iterator[str]:
    for key in attributes:
        value = node.attr[key]
        yield from (function.name for function in ([value.func] if value.HasField("func") else value.list.func))


def _described(effect: SideEffect, variables: Mapping[int, str]) -> tuple[str, str]:
    """What an effect is, and what to do instead."""
    variable = variables.get(id(effect.resource), "")
    if _traits(effect.op).random or variable.endswith("seed_generator_state"):
        return f"{effect.op} draws random numbers", (
            "Random numbers come from keras.random with a generator that the layer has: self.seed_generator = "
            "keras.random.SeedGenerator(seed), then keras.random.uniform(shape, seed=self.seed_generator); that of a "
            "learner is among its variables()."
        )
    if effect.op in ("PyFunc", "EagerPyFunc"):
        return f"{effect.op} runs Python code", (
            "Instead of tf.py_function, use TensorFlow's or keras.ops; a function whose results depend on its inputs "
            "alone may also be tf.numpy_function(..., stateful=False)."
        )
    if variable:
        return f"{effect.op} changes the variable {variable!r}", (
            "A layer makes such a variable with self.add_weight(..., trainable=False), a metric with "
            "self.add_variable; what a loss or a schedule would remember belongs in a layer."
        )
    if re.search("Iterator|Queue|Reader", effect.op):
        return f"{effect.op} goes on in what it reads", (
            "The place where an iterator, a queue or a reader stands is not saved: what is read belongs in the data, "
            "or is read before training and given to the layer as a constant."
        )
    if effect.resource is not None:
        return f"{effect.op} changes what it is given", (
            "A table may only be looked up; what changes must be a variable that a layer has made with "
            "self.add_weight(..., trainable=False)."
        )
    return f"{effect.op} may come out otherwise each time", "Leave it out, or compute it before training."


def _place(path: str, layers: set[str]) -> str:
    """The innermost layer of an op, or what else of the step it belongs to."""
    pieces = path.split("/")
    for piece in reversed(pieces):
        # Keras opens the scope of each layer twice, so that the second has a number more.
        for name in (re.sub(r"_\d+$", "", piece), piece):
            if name in layers:
                return f"layer {name!r}"
    for kind in ("loss", "metrics"):
        if kind in (re.sub(r"_\d+$", "", piece) for piece in pieces[:-1]):
            return f"the {kind}"
    return "the step"


def inner_layers(layer: Any) -> Iterator[keras.layers.Layer]:
    """All layers that it says it has, and theirs."""
    for inner in getattr(layer, "layers", []):
        yield inner
        yield from inner_layers(inner)

"""Says which `if`, `for` or `while` of Python's asked a tensor for its value, which a graph in the making has not.

    try:
        tf.function(loss, autograph=False).get_concrete_function(targets, outputs)
    except TypeError as error:
        reason = control_flow_on_tensor(error) or str(error)

Functions are traced as Keras's `fit` traces them: AutoGraph rewrites those alone that are decorated with @tf.function.
"""

from __future__ import annotations

import linecache
import os
import traceback


def control_flow_on_tensor(error: BaseException) -> str | None:
    """The file, the line and the way out, where this was the reason for an error; None for another error."""
    if "symbolic `tf.Tensor`" not in str(error):
        return None
    frames = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("tensorflow", "keras", "src")
    ]
    if not frames:
        return None
    code, line = frames[-1]
    source = linecache.getline(code.co_filename, line).strip()
    return (
        f"{os.path.relpath(code.co_filename)}:{line}, `{source}`: Python cannot decide by a tensor while the graph is "
        f"made; decorate {code.co_name} with @tf.function, or use tf.where, tf.cond or tf.while_loop"
    )

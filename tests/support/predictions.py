"""What a run predicts from a file of examples is what its best weights give for them, preprocessing included.

python -m tests.support.predictions RUN new.csv     # writes the file, and what the model gives in wanted.npz
python -m src.predict RUN new.csv
largest_error(RUN, Path("wanted.npz"))
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 5
WANTED = "wanted.npz"


def main(run: Path, file: Path) -> None:
    """Write a run's first examples, or noise where its model takes other inputs, and what its best weights give."""
    import tensorflow as tf

    from src import build
    from src.data.batch import OUTPUTS, named_parts
    from src.runs.recorded_config import load_config
    from src.training.checkpoints import Checkpoints
    from src.training.manifest import BEST

    cfg = load_config(run)
    data = build.build_data(cfg)
    trainer = build.build_trainer(cfg, data, run_dir=run)
    assert Checkpoints(run / "checkpoints" / BEST).restore_weights(trainer.state) is not None
    spec = trainer.learner.input_spec(data.train.element_spec)
    if spec == data.train.element_spec[0]:
        batches = data.raw("val")
        inputs = tf.nest.map_structure(lambda part: part[:ROWS], batches.next(batches.open(0, 0), tf.constant(0))[0])
        prepared = data.prepare(inputs)
    else:
        inputs = prepared = tf.random.stateless_normal([ROWS, *spec.shape[1:]], seed=[0, 0])
    takes = tf.saved_model.load(str(run / "saved_model" / "1")).signatures["serving_default"]
    name = min(takes.structured_input_signature[1], key=len)  # a ragged input has row splits beside it, in any order
    write(file, {key: part.numpy() for key, part in named_parts(inputs, name).items()})
    wanted = {key: part.numpy() for key, part in named_parts(trainer.state.predict(prepared), OUTPUTS).items()}
    np.savez(file.with_name(WANTED), **wanted)


def largest_error(run: Path, wanted: Path) -> float:
    """The largest difference between what `src.predict` has written and what was wanted, beside its size."""
    lines = [json.loads(line) for line in (run / "predictions" / "predictions.jsonl").read_text().splitlines()]
    errors = []
    with np.load(wanted) as arrays:
        for name, values in arrays.items():
            key = name if name in lines[0] else "logits"
            found = np.array([line[key] for line in lines], np.float64)
            assert found.shape == values.shape
            errors.append(np.max(np.abs(found - values) / np.maximum(np.abs(values), 1)))
    return float(max(errors))


def write(file: Path, arrays: Mapping[str, Any]) -> None:
    """The inputs by name as a file of rows."""
    if file.suffix == ".npz":
        np.savez(file, **arrays)
        return
    columns = {
        name: [value.decode() if isinstance(value, bytes) else value.tolist() for value in values]
        for name, values in arrays.items()
    }
    rows = list(zip(*columns.values(), strict=True))
    if file.suffix == ".txt":
        lines = [value for (value,) in rows]
    elif file.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    else:
        lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    file.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

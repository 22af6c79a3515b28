"""Run an exported model on stored batches: a file of its own, for a process that has nothing of this project.

python run_exported.py model.onnx inputs.npz outputs.npz

Inputs and outputs are arrays called `<batch>/<name>`.
"""

import sys

import numpy as np


def main(file, inputs, outputs):
    batches = {}
    with np.load(inputs) as stored:
        for key in stored:
            number, _, name = key.partition("/")
            batches.setdefault(number, {})[name] = stored[key]
    run = {"onnx": onnx, "tflite": tflite, "keras": keras}[file.rpartition(".")[2]](file)
    found = {f"{n}/{name}": value for n, batch in batches.items() for name, value in run(batch).items()}
    np.savez(outputs, **found)


def onnx(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, batch), strict=True))


def tflite(file):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=file).get_signature_runner("serving_default")
    return lambda batch: runner(**batch)  # which gives the tensors the batch's size


def keras(file):
    import keras

    model = keras.saving.load_model(file, compile=False)

    def run(batch):
        outputs = model(batch.get("", batch), training=False)
        outputs = outputs if isinstance(outputs, dict) else {"outputs": outputs}
        return {name: keras.ops.convert_to_numpy(keras.ops.cast(value, "float32")) for name, value in outputs.items()}

    return run


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Tests that need extras, and `huggingface_hub`: `make test-extras`, and in no other suite."""

from importlib.util import find_spec

NEEDED = {
    "test_formats.py": ("tf2onnx", "onnxruntime", "ai_edge_litert", "huggingface_hub"),
    "test_trackers.py": ("mlflow", "wandb"),
}
collect_ignore = [name for name, packages in NEEDED.items() if not all(map(find_spec, packages))]

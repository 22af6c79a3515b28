"""Tests that need the extras `onnx` and `tflite` and `huggingface_hub`: `make test-extras`, and in no other suite."""

from importlib.util import find_spec

NEEDED = ("tf2onnx", "onnxruntime", "ai_edge_litert", "huggingface_hub")
collect_ignore_glob = [] if all(map(find_spec, NEEDED)) else ["test_*.py"]

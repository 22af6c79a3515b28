"""What a record says of what a run was computed in, and what cannot leak in from there."""

import json

import pytest

from src.runs.environment import environment, environment_changes, variables
from src.runs.record import Record
from src.verify_resume import compare
from tests.support.helpers import only_run, run_module, train

LEAN = ["epochs=1", "trainer.threads=1", *(f"callback.{name}=null" for name in ("export", "images", "hparams"))]
RUN = ["data=digits", "model=cnn", *LEAN]
NOTHING = {"git": None, "packages": {}, "python": "3.11", "processor": "x"}


def test_environment():
    found = environment()
    assert found["packages"]["tensorflow"] and found["python"].startswith("3.") and found["processor"]
    git = found["git"]
    assert git is None or (len(git["commit"]) == 40 and isinstance(git["dirty"], bool))
    assert found["keras"] == {
        "backend": "tensorflow",
        "floatx": "float32",
        "image_data_format": "channels_last",
        "epsilon": 1e-7,
    }


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("TF_ENABLE_ONEDNN_OPTS", True),
        ("TF_XLA_FLAGS", True),
        ("TF_DETERMINISTIC_OPS", True),
        ("TF_CUDNN_USE_AUTOTUNE", True),
        ("TF_SET_ONEDNN_FPMATH_MODE", True),
        ("TF_NUM_INTEROP_THREADS", True),
        ("TF_USE_LEGACY_KERAS", True),
        ("XLA_FLAGS", True),
        ("KERAS_NNX_ENABLED", True),
        ("ONEDNN_MAX_CPU_ISA", True),
        ("DNNL_MAX_CPU_ISA", True),
        ("NVIDIA_TF32_OVERRIDE", True),
        ("CUBLAS_WORKSPACE_CONFIG", True),
        ("OMP_NUM_THREADS", True),
        ("KMP_AFFINITY", True),
        ("OPENBLAS_CORETYPE", True),
        ("MKL_CBWR", True),
        ("NPY_DISABLE_CPU_FEATURES", True),
        ("GLIBC_TUNABLES", True),
        ("TF_CPP_MIN_LOG_LEVEL", False),  # talks
        ("ONEDNN_VERBOSE", False),
        ("TF2_BEHAVIOR", False),  # TensorFlow sets it itself
        ("TF_FORCE_GPU_ALLOW_GROWTH", False),  # memory alone, and a sweep's jobs have it
        ("CUDA_VISIBLE_DEVICES", False),  # as a sweep's slots have it
        ("TFDS_DATA_DIR", False),
        ("KERAS_HOME", False),
        ("KERAS_BACKEND", False),  # refused where it matters
        ("TF_VAR_password", False),  # Terraform's
        ("TF_TOKEN_app_terraform_io", False),
        ("TF_HTTP_PASSWORD", False),
        ("TF_ENCRYPTION", False),
        ("TF_CLI_CONFIG_FILE", False),
        ("TF_DATA_DIR", False),
        ("PATH", False),
        ("COMPUTE_OMP_NUM", False),
    ],
)
def test_variables_that_change_bits(name, counts):
    assert variables({name: "1", "HOME": "/root"}) == ({name: "1"} if counts else {})


def test_changes_name_variables_old_and_new():
    old = {**NOTHING, "keras": {"epsilon": 1e-7}, "variables": {"XLA_FLAGS": "", "OMP_NUM_THREADS": "1"}}
    new = {**NOTHING, "keras": {"epsilon": 1e-3}, "variables": {"XLA_FLAGS": "-a", "TF_ENABLE_ONEDNN_OPTS": "0"}}
    assert environment_changes(old, new) == [
        "keras epsilon 1e-07 -> 0.001",
        "OMP_NUM_THREADS 1 -> unset",
        "TF_ENABLE_ONEDNN_OPTS unset -> 0",
        "XLA_FLAGS '' -> -a",
    ]
    assert environment_changes(old, old) == []
    assert environment_changes(NOTHING, new) == []  # a record of before says nothing of it


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run with none of Keras's settings given."""
    folder = tmp_path_factory.mktemp("plain")
    result = train(*RUN, "hydra.run.dir=run", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.mark.exhaustive
def test_keras_json_changes_no_bit(plain, tmp_path):
    settings = {"floatx": "float16", "image_data_format": "channels_first", "epsilon": 1e-3, "backend": "jax"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    result = run_module("src.train", *RUN, "hydra.run.dir=run", cwd=tmp_path, KERAS_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert compare(tmp_path / "run", plain) == []
    records = [Record(run).read() for run in (plain, tmp_path / "run")]
    assert records[0]["environment"] == records[1]["environment"]


@pytest.mark.parametrize("arguments", [["src.train", *RUN], ["src.train", "--multirun", *RUN, "seed=0,1"]])
def test_another_backend_is_refused(tmp_path, arguments):
    result = run_module(*arguments, cwd=tmp_path, KERAS_BACKEND="jax")
    assert result.returncode == 2 and "KERAS_BACKEND is 'jax'" in result.stderr and "unset it" in result.stderr
    assert not list(tmp_path.rglob("run.json"))


def test_a_variable_that_changes_bits_is_said(tmp_path, monkeypatch):
    """On a resume, on every reuse from then on, and in `runs show`; the record has what it was, and is."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    run = ["data=digits", "model=mlp", *LEAN, "callback.summaries=null"]
    assert train(*run, "max_seconds=1e-9", cwd=tmp_path).returncode == 0
    folder = only_run(tmp_path / "outputs" / "digits")
    assert Record(folder).read()["environment"]["variables"].get("TF_ENABLE_ONEDNN_OPTS") is None
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    resumed = train(*run, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    said = "TF_ENABLE_ONEDNN_OPTS unset -> 0"
    assert f"continued in another environment, so last bits may differ: {said}" in resumed.stderr
    recorded = Record(folder).read()["environment"]
    assert recorded["variables"]["TF_ENABLE_ONEDNN_OPTS"] == "0" and recorded["changes"] == [f"{said} (after epoch 0)"]
    reused = train(*run, cwd=tmp_path)
    assert said in reused.stderr and "computed in another environment" not in reused.stderr
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    assert "computed in another environment: TF_ENABLE_ONEDNN_OPTS 0 -> unset" in train(*run, cwd=tmp_path).stderr
    branch = train(f"resume={folder}", "epochs=2", "hydra.run.dir=branch", cwd=tmp_path)
    assert "another environment, so last bits may differ: TF_ENABLE_ONEDNN_OPTS 0 -> unset" in branch.stderr
    assert Record(tmp_path / "branch").read()["environment"]["changes"] == [
        "TF_ENABLE_ONEDNN_OPTS 0 -> unset (after epoch 1)"
    ]

"""A tracker whose package is missing is told so before anything begins; what it sends is in tests/extras."""

import importlib.util

import pytest

from src.callbacks.tracker import Tracker
from tests.support.helpers import ROOT, train


@pytest.mark.parametrize(("to", "package"), [("wandb", "wandb"), ("wandb_offline", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch, to, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError,
        match=rf"^to={to} needs the package {package}, .*: pip install -c constraints.txt -e '\.\[{package}\]'$",
    ):
        Tracker(record=str(tmp_path), to=to)
    Tracker(record=str(tmp_path))


def test_where_mlflow_is_must_be_said(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=r"^to=mlflow needs the environment variable MLFLOW_TRACKING_URI, as http"):
        Tracker(record=str(tmp_path), to="mlflow")


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is there")
def test_a_run_without_the_package_ends_with_one_line_and_no_folder(tmp_path):
    done = train("data=digits", "model=mlp", "callback.tracker.to=wandb", cwd=tmp_path)
    assert done.returncode == 2 and not list(tmp_path.glob("outputs/digits/*/run.json"))
    assert (
        f"pip install -c {ROOT / 'constraints.txt'} -e '{ROOT}[wandb]'" in done.stderr
        and "Traceback" not in done.stderr
    )

"""What a config takes from outside of it is recorded, and what the run was trained with counts from then on."""

import json

import pytest
from omegaconf import OmegaConf

from src.config.compose import compose
from src.runs.branch import branch
from src.runs.external_values import outside_values, recorded_values
from src.runs.record import Record
from tests.support import forks
from tests.support.helpers import only_run, train


@pytest.fixture
def resolvers():
    OmegaConf.register_new_resolver("twice", lambda number: 2 * int(number))
    OmegaConf.register_new_resolver("opaque", lambda: OmegaConf.create([1]), replace=True)
    yield
    for name in ("twice", "opaque"):
        OmegaConf.clear_resolver(name)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"a": {"b": "${oc.env:MINE}"}}, {"a.b": "3"}),
        ({"a": "x/${oc.env:MINE}/${c}", "c": 1}, {"a": "x/3/1"}),
        ({"a": "${oc.decode:${oc.env:MINE}}"}, {"a": 3}),
        ({"a": "${oc.env:NOT_THERE,5}"}, {"a": "5"}),
        ({"a": ["${oc.env:MINE}", "${c}"], "c": 1}, {"a": ["3", 1]}),
        ({"a": [{"b": "${ oc.env:MINE }"}]}, {"a": [{"b": "3"}]}),
        ({"a": "${twice:${c}}", "c": 2}, {"a": 4}),  # where it is evaluated, the resolver may not be there
        ({"a": "${opaque:}"}, {"a": [1]}),
        ({"data": {"a.b": "${oc.env:MINE}"}}, {"data.a.b": "3"}),
        ({"a": "${c}", "c": 1}, {}),
        ({"a": "${oc.select:c}", "c": 1}, {}),
        ({"a": "${twice:${run.num_classes}}"}, {}),  # known when the data is
        ({"a": "${b}", "b": "${run.num_classes}"}, {}),
        ({"a": "${oc.env:NOT_THERE}"}, {}),
        ({"api_token": "${oc.env:MINE}"}, {}),
        ({"a": "plain", "b": None, "c": 3}, {}),
    ],
)
def test_what_comes_from_outside(resolvers, monkeypatch, config, expected):
    monkeypatch.setenv("MINE", "3")
    cfg = OmegaConf.create({**config, "run": {"num_classes": None}})
    found = outside_values(cfg)
    assert found == expected and json.loads(json.dumps(found)) == found
    written = OmegaConf.create(config)
    assert {".".join(path): value for path, value in recorded_values(written, {"resolved": found})} == expected
    assert {".".join(path): value for path, value in recorded_values(written, {"config": found})} == expected


MINE = """# @package _global_
defaults:
  - override /data: digits
  - override /model: mlp
batch_size: ${oc.decode:${oc.env:MINE_BATCH}}
log_every_steps: ${oc.decode:${oc.env:MINE_EVERY}}
callback:
  images: null
  hparams: null
  summaries: null
"""
OPTIONS = ["--config-dir", "conf"]
TYPED = [
    "optimizer.learning_rate='${oc.decode:${oc.env:MINE_RATE}}'",
    "+data.limit='${oc.decode:${oc.env:MINE_LIMIT}}'",
]
THEN = {"MINE_BATCH": "64", "MINE_EVERY": "7", "MINE_RATE": "0.004", "MINE_LIMIT": "0.5"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose config has values from the environment: typed and in a file, of its identity and not."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "mine.yaml").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in THEN.items():
            patch.setenv(name, value)
        result = train(*OPTIONS, "experiment=mine", "epochs=1", *TYPED, cwd=folder)
    assert result.returncode == 0, result.stderr
    return only_run(folder / "outputs" / "digits")


@pytest.fixture(params=["other", pytest.param("gone", marks=pytest.mark.exhaustive)])
def since(request, monkeypatch):
    """The variables since."""
    for name in THEN if request.param == "other" else ():
        monkeypatch.setenv(name, "0.1")


def test_a_run_is_evaluated_with_what_it_was_trained_with(run, since):
    found = forks.run("src.evaluate", [str(run), "split=val"], cwd=run.parents[2])
    assert found.returncode == 0, found.stderr
    best = Record(run).read()["best"]
    assert f"{best['value']:.6f}" in next(line for line in found.stdout.splitlines() if line.startswith("accuracy"))


def test_so_is_a_branch_of_it(run, since):
    """But for what is given anew; TensorFlow is not needed to know its config."""
    there = run.parents[2]
    for words, expected in (
        (["epochs=2"], {"batch_size": 64, "optimizer.learning_rate": 0.004, "data.limit": 0.5}),
        (["epochs=2", "optimizer.learning_rate=0.01"], {"batch_size": 64, "optimizer.learning_rate": 0.01}),
    ):
        cfg = compose(branch([f"resume={run}", *words]), config_dir=str(there / "conf"))
        assert {key: OmegaConf.select(cfg, key) for key in expected} == expected
        assert cfg.log_every_steps == 7

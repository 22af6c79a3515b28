"""Editors say of a file in conf/ what a command would: right files are right, mistakes are marked where they stand."""

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import referencing
from omegaconf import OmegaConf

from src.common.code import ROOT
from src.config import schema
from src.config.checks import plain_values
from src.config.compose import CONFIG_DIR, ConfigError, check as compose_check, compose
from tests.test_ids import FILE as IDS

SETTINGS = json.loads((ROOT / ".vscode" / "settings.json").read_text())["yaml.schemas"]
FILES = sorted(CONFIG_DIR.rglob("*.yaml"))
NO_OPTIONS = ("conf/hydra/hydra_logging/", "conf/hydra/job_logging/")  # which Python's logging reads


@pytest.fixture(scope="module")
def validators():
    """By the names of the schemas' files, as they are committed."""
    contents = {path.name: json.loads(path.read_text()) for path in schema.FOLDER.glob("*.json")}
    draft7 = referencing.jsonschema.DRAFT7
    registry = referencing.Registry().with_resources((n, draft7.create_resource(c)) for n, c in contents.items())
    for content in contents.values():
        jsonschema.Draft7Validator.check_schema(content)
    return {name: jsonschema.Draft7Validator({"$ref": name}, registry=registry) for name in contents}


def schema_of(path: str) -> str | None:
    """The name of the schema that .vscode/settings.json gives a file."""
    globs = ((Path(name).name, glob) for name, paths in SETTINGS.items() for glob in paths)
    found = [name for name, glob in globs if Path(path).match(glob)]
    assert len(found) < 2
    return next(iter(found), None)


def content_of(text: str):
    """As the project reads it."""
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def test_what_is_committed_is_what_make_schema_writes():
    written = {name: schema.as_text(content) for name, content in schema.schemas().items()}
    committed = {path.stem: path.read_text() for path in schema.FOLDER.glob("*.json")}
    assert committed.keys() == written.keys()
    assert [name for name in written if written[name] != committed[name]] == [], "run: make schema"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIG_DIR)))
def test_each_file_of_options_is_right(validators, path):
    relative = str(path.relative_to(ROOT))
    if (name := schema_of(relative)) is None:
        assert relative.startswith(NO_OPTIONS)
        return
    assert [error.message for error in validators[name].iter_errors(content_of(path.read_text()))] == []


def test_what_commands_compose_is_right(validators):
    """All that an experiment could write down, of each command whose id is pinned and that needs no other run."""
    commands = [line.partition(" -> ")[0] for line in IDS.read_text().splitlines() if " -> " in line]
    checked = 0
    for command in commands:
        words = shlex.split(command)
        if "--multirun" in words or any(
            word.startswith(("resume=", "init_from=")) or "mine." in word for word in words
        ):
            continue
        try:
            plain = plain_values(compose(words, starts=True))
        except ConfigError:  # of a folder that is not here
            continue
        errors = [f"{error.json_path}: {error.message}" for error in validators["config.json"].iter_errors(plain)]
        assert errors == [], command
        checked += 1
    assert checked > 40


# What a file says, and the key that the editor marks.
MISTAKES = {
    "experiment": [
        ("epochs: ten", "epochs"),
        ("epochs: 0", "epochs"),
        ("epochs: 2.5", "epochs"),
        ("epoch: 1", "epoch"),
        ("learning_rate: 0.1", "learning_rate"),
        ("seed: -1", "seed"),
        ("mode: maximum", "mode"),
        ("stale: never", "stale"),
        ("precision: float16", "precision"),
        ("name: a/b", "name"),
        ("name: sweeps", "name"),
        ("max_seconds: 0", "max_seconds"),
        ("dry_run: 1", "dry_run"),
        ("optimiser: {learning_rate: 0.1}", "optimiser"),
        ("optimizer: SGD", "optimizer"),
        ("model: mlp", "model"),
        ("optimizer: {beta_2: 2}", "optimizer"),
        ("optimizer: {nope: 1}", "optimizer"),
        ("optimizer: {_targt_: x}", "optimizer"),
        ("model: {_target_: os.system}", "model"),
        ("optimizer: {_target_: keras.optimizers.SGD, beta_1: 0.9}", "optimizer"),
        ("loss: {_target_: src.losses.CrossEntropy, label_smoothing: 1}", "loss"),
        ("trainer: {clip_nrom: 1}", "trainer"),
        ("trainer: {threads: 0}", "trainer"),
        ("trainer: {jit_compile: 'no'}", "trainer"),
        ("data: {shuffle: 'no'}", "data"),
        ("data: {limit: 1.5}", "data"),
        ("callback: {x: {patience: 3}}", "callback"),
        ("callback: {images: {exmaples: 3}}", "callback"),
        ("callback: {checkpoint: {max_to_keep: 0}}", "callback"),
        ("defaults: [{override /model: unte}]", "defaults"),
        ("defaults: [{override /modle: unet}]", "defaults"),
        ("default: [{override /model: unet}]", "default"),
    ],
    "model": [
        ("_target_: src.models.unet.unet\nfilter: 8", "filter"),
        (
            "_target_: src.models.cnn.cnn\ninput_shape: ${run.input_shape}\nnum_classes: 3\nactivation: rleu",
            "activation",
        ),
        ("_target_: nowhere.net", "_target_"),
    ],
    "schedule": [("_target_: src.schedules.cosine\nfinal_fraction: 2", "final_fraction")],
    "metric": [("iou:\n  _target_: src.metrics.MeanIoU\n  num_clases: 3", "iou")],
    "data": [
        ("# @package _global_\ndata: {_target_: src.data.sources.digits, batch_sise: 3}", "data"),
        (
            "# @package _global_\ndata:\n  _target_: src.data.sources.digit_scenes\n  transforms:\n"
            "    shift: {_target_: src.data.images.transforms.Shift, max_pixels: -1}",
            "data",
        ),
    ],
    "trainer": [("threads: many", "threads")],
}


@pytest.mark.parametrize(
    ("group", "text", "key"), [(group, text, key) for group, found in MISTAKES.items() for text, key in found]
)
def test_a_mistake_is_marked_as_the_command_refuses_it(validators, tmp_path, group, text, key):
    errors = [*validators[f"{'config' if group == 'experiment' else group}.json"].iter_errors(content_of(text))]
    assert errors
    for error in errors:
        places = [str(part) for part in error.absolute_path] or re.findall(r"'([\w.]+)'", error.message)
        assert key in places, error.message
    (tmp_path / group).mkdir()
    header = "# @package _global_\n" if group == "experiment" else ""
    (tmp_path / group / "x.yaml").write_text(header + text)
    command = [f"{group}=x", f"hydra.searchpath=[{tmp_path}]"]
    with pytest.raises(ConfigError):
        compose_check(command, config_name=None, is_known=lambda cfg: False)


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("config", "epochs: ${oc.env:EPOCHS}\noptimizer: {learning_rate: '${oc.decode:${oc.env:RATE}}'}"),
        ("config", "optimizer: {_target_: keras.src.optimizers.sgd.SGD}\ncallback: {images: null}"),
        ("config", "defaults:\n- /experiment/digits_fast\n- override /callback: [early_stopping]\n- _self_"),
        ("config", "data: {image_size: [32, 48], transforms: {shift: null}}"),
        ("model", "defaults: [cnn]\nfilters: 8"),
        ("schedule", "_target_: keras.optimizers.schedules.CosineDecay\ninitial_learning_rate: 0.1\ndecay_steps: 9"),
        ("data", "# @package _global_\ndata:\n  _target_: src.data.tables.table\n  path: ???"),
        ("optimizer", "_target_: keras.optimizers.Adam\nepsilon: null\nlearning_rate: 1e-3"),
    ],
)
def test_what_is_right_is_not_marked(validators, group, text):
    assert [error.message for error in validators[f"{group}.json"].iter_errors(content_of(text))] == []


def test_hover_shows_comments_docstrings_and_what_is_allowed():
    found = schema.schemas()["config"]
    adam = found["definitions"]["keras.optimizers.Adam"]["properties"]
    assert "the peak rate" in adam["learning_rate"]["description"]
    assert "a number above 0" in adam["learning_rate"]["description"]
    assert "numerical stability" in adam["epsilon"]["description"]
    assert "min or max" in found["properties"]["mode"]["description"]

"""The gate for `_target_`: what lies behind a name decides, at any depth, and a stranger's config runs nothing."""

from __future__ import annotations

import functools
import importlib
import json
import re
import shutil
import subprocess
import sys

import keras
import pytest
import tensorflow as tf
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from src.config import targets
from src.config.compose import ConfigError, check_sweep, compose
from src.config.targets import TargetError, build, check_names, judge, resolve
from src.runs.execute import execute_job
from tests.support.helpers import ROOT, run_module

TOUCH = {"_target_": "subprocess.getoutput", "_args_": ["touch marker"]}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("keras.optimizers.Adam", "optimizer"),
        ("keras.src.optimizers.adam.Adam", "optimizer"),
        ("keras.optimizers.schedules.CosineDecay", "schedule"),
        ("src.schedules.cosine", "schedule"),
        ("keras.losses.Dice", "loss"),
        ("src.losses.CrossEntropy", "loss"),
        ("src.metrics.MeanIoU", "metric"),
        ("src.models.cnn.cnn", "model"),
        ("src.data.sources.digits", "data"),
        ("src.data.images.transforms.Shift", "data.transforms"),
        ("src.callbacks.early_stopping.EarlyStopping", "callback"),
        ("optuna.samplers.TPESampler", "hydra.sweeper"),
    ],
)
def test_constructors_of_listed_packages_are_let_through(name, group):
    module, _, last = name.rpartition(".")
    assert resolve(name, group=group) is getattr(importlib.import_module(module), last)


FORBIDDEN = [
    "keras.src.utils.file_utils.os.system",
    "tensorflow.io.gfile.rmtree",
    "builtins.eval",
    "subprocess.Popen",
    "hydra.utils.get_method",
    "functools.partial",
    "src.common.files.delete",
    "src.data.digit_scenes.builder.shutil.rmtree",
    "src.data.sources.np.load",
    "src.losses.keras.losses.Dice",
    "src.callbacks.export.tf.saved_model.load",
    "src.data._private",
    "src.data.__main__.main",
    "src.models.cnn.__builtins__",
    "keras.models.load_model",
    "keras.saving.deserialize_keras_object",
    "keras.layers.Lambda",
    "keras.losses.deserialize",
    "keras.optimizers.get",
    "keras.metrics.deserialize",
    "keras.optimizers.schedules.deserialize",
    "os.system",
    "posix.system",
    "src",
    "",
    "..",
    "a b.c",
    "src.losses",
    "src.models.cnn.keras",
]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_no_group_may_name(name):
    for group in targets.GROUPS:
        with pytest.raises(TargetError, match=f"^{group}._target_ is "):
            resolve(name, group=group)


@pytest.mark.parametrize(
    ("found", "own"),
    [
        (keras.src.utils.file_utils.os.system, "posix.system"),
        (tf.io.gfile.rmtree, "tensorflow"),
        (keras.losses.deserialize, "keras"),
        (keras.layers.Lambda, "keras.src.layers"),
        (functools.partial(print), "functools.partial"),
        (shutil.rmtree, "shutil.rmtree"),
        (json.JSONDecoder, "json.decoder.JSONDecoder"),
        (keras.losses.Loss.from_config, "Loss"),
        (keras.losses.Loss.get_config, "Loss.get_config"),
        (lambda: None, "<lambda>"),
        (5, "an object of builtins.int"),
        (json, "the module json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("group", ["loss", "model"])
def test_an_object_is_judged_by_its_own_module_whatever_name_led_to_it(found, own, group):
    with pytest.raises(TargetError) as refused:
        judge(found, name="src.losses.innocent", group=group, key=group)
    assert own in str(refused.value)


@pytest.mark.parametrize(
    ("name", "group", "said"),
    [
        ("keras.losses.Dice", "optimizer", "keras.losses is not listed for optimizer (keras.optimizers"),
        ("keras.optimizers.schedules.CosineDecay", "optimizer", "it is no keras.optimizers.Optimizer"),
        ("src.callbacks.events.EventFiles", "callback", "it is no src.training.callback.Callback"),
        ("keras.optimizer.Adam", "optimizer", "Did you mean keras.optimizers.Adam?"),
        ("keras.optimizers.Adm", "optimizer", "Did you mean Adam?"),
        ("src.models.cn.cnn", "model", "there is no module src.models.cn"),
        (
            *("mine.nets.net", "model"),
            "a line in conf/targets.tests.txt, as make new writes it, or in conf/targets.txt: model mine.nets",
        ),
        ("keras.losses.get", "loss", "of Keras, only classes that are a keras.losses.Loss may be named"),
    ],
)
def test_a_refusal_says_why_and_the_way_out(name, group, said):
    with pytest.raises(TargetError) as refused:
        resolve(name, group=group)
    assert said in str(refused.value) and str(refused.value).startswith(f"{group}._target_ is '{name}'")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"loss": {"_target_": "os.system", "command": "true"}}, "loss"),
        ({"loss": {"_target_": "src.losses.WeightedSum", "losses": {"a": {"_target_": "os.system"}}}}, "loss.losses.a"),
        ({"model": {"_target_": "src.models.cnn.cnn", "any": [1, [{"_target_": "os.system"}]]}}, "model.any[1][0]"),
        ({"data": {"_target_": "src.data.sources.digits", "_args_": [{"_target_": "os.system"}]}}, "data._args_[0]"),
        ({"callback": {"new": {"deep": {"er": {"_target_": "os.system"}}}}}, "callback.new.deep.er"),
        ({"model": {"_target_": "src.models.cnn.cnn", "_recursive_": False, "b": TOUCH}}, "model.b"),
        ({"metric": {"a": {"_target_": "os.system", "_partial_": True}}}, "metric.a"),
        ({"optimizer": {"_target_": ["os", "system"]}}, "optimizer"),
        ({"optimizer": {"_target_": {"_target_": "os.system"}}}, "optimizer"),
        ({"data": {"transforms": {"flip": {"_target_": "keras.losses.Dice"}}}}, "data.transforms.flip"),
        ({"hydra": {"sweeper": {"sampler": {"_target_": "optuna.create_study"}}}}, "hydra.sweeper.sampler"),
    ],
)  # fmt: skip
def test_nested_nodes_are_judged_wherever_they_are(config, key):
    with pytest.raises(TargetError) as refused:
        check_names(config)
    assert str(refused.value).startswith(f"{key}._target_ is ")
    (group,) = config
    if group != "hydra":
        with pytest.raises(TargetError):
            build(config[group], key=group)


@pytest.mark.parametrize(
    "text",
    [
        "model: {_target_: src.models.cnn.cnn, x: '${other}'}\nother: {_target_: os.system}",
        "model: {_target_: '${other}'}\nother: os.system",
        "model: ${other}\nother: {_target_: os.system}",
        "model: {_target_: src.models.cnn.cnn, x: '${oc.create:{_target_: os.system}}'}",
    ],
)
def test_interpolations_are_judged_by_what_they_give(text):
    config = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    with pytest.raises(TargetError, match=r"^model\S* is 'os.system'"):
        check_names(config)


def test_what_is_built_is_not_resolved_again():
    """An escaped interpolation stays the text that it was when it was judged."""
    node = {"_target_": "src.losses.CrossEntropy", "name": "${oc.create:'{_target_: os.system}'}"}
    with pytest.raises(TargetError, match="unexpected keyword argument 'name'"):
        build(node, key="loss")
    with pytest.raises(TargetError, match="it must be a dotted name"):
        build({"_target_": "${evil}", "evil": "os.system"}, key="loss")


def test_build_makes_what_the_config_says():
    node = {"_target_": "keras.optimizers.SGD", "learning_rate": 1, "momentum": 0.5}
    optimizer = build(node, key="optimizer", learning_rate=0.1)
    assert isinstance(optimizer, keras.optimizers.SGD) and float(optimizer.learning_rate) == pytest.approx(0.1)
    loss = build(
        {
            "_target_": "src.losses.WeightedSum",
            "losses": {"a": {"_target_": "keras.losses.Dice"}, "b": {"_target_": "src.losses.Tversky"}},
            "weights": {"a": 1.0, "b": 2.0},
        },
        key="loss",
    )
    assert type(loss).__name__ == "WeightedSum"
    node = {"x": {"_target_": "src.callbacks.early_stopping.EarlyStopping", "_partial_": True}}
    partial = build(node, key="callback")
    assert isinstance(partial["x"], functools.partial) and partial["x"](patience=2)
    nodes = [{"_target_": "src.data.images.transforms.Shift", "_args_": [], "max_pixels": 3}, None, 5]
    shifts = build(nodes, key="data.transforms")
    assert type(shifts[0]).__name__ == "Shift" and shifts[1:] == [None, 5]


def test_what_a_constructor_says_names_the_node():
    node = {"transforms": {"shift": {"_target_": "src.data.images.transforms.Shift", "max_pixels": -1}}}
    with pytest.raises(TargetError, match=r"^data.transforms.shift \(src.data.images.transforms.Shift\): max_pix"):
        build(node, key="data")


# A file of the project alone changes the list


@pytest.fixture
def listing(tmp_path, monkeypatch):
    """A function that adds lines to the list."""

    def add(*lines):
        file = tmp_path / "targets.txt"
        file.write_text("\n".join([targets.FILE.read_text(), *lines]) + "\n")
        monkeypatch.setattr(targets, "FILE", file)

    return add


def test_a_users_package_is_imported_only_if_it_is_listed(tmp_path, monkeypatch, listing):
    (tmp_path / "of_user.py").write_text("open('marker', 'w').close()\nfrom os import system\ndef net(): return 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=r"conf/targets\.txt: model of_user"):
        resolve("of_user.net", group="model")
    assert not (tmp_path / "marker").exists() and "of_user" not in sys.modules
    listing("model  of_user  # mine")
    assert resolve("of_user.net", group="model")() == 7
    with pytest.raises(TargetError, match=r"it is posix\.system"):
        resolve("of_user.system", group="model")
    with pytest.raises(TargetError, match="not listed for data"):
        resolve("of_user.net", group="data")


@pytest.mark.parametrize("line", ["model", "modell mine", "model mine other", "model mine/x", "trainer src"])
def test_a_line_that_says_nothing_is_named(line, listing):
    listing(line)
    with pytest.raises(TargetError, match=r"line \d+: .* is no group and package"):
        resolve("src.models.cnn.cnn", group="model")


@pytest.mark.parametrize("line", ["model subprocess", "loss hydra.utils", "hydra.launcher os"])
def test_a_line_for_what_runs_anything_is_refused(line, listing):
    listing(line)
    with pytest.raises(TargetError, match=r"line \d+: .* cannot be allowed"):
        resolve("src.models.cnn.cnn", group="model")


# A config from a stranger, through the commands

# What runs a command when it is imported, called, or found in the environment.
EVIL = """
import os
open(os.environ["MARKER"], "a").close()
def call(*args, **kwargs):
    open(os.environ["MARKER"], "a").close()
class Handler:
    def __init__(self, *args, **kwargs): call()
"""
STRANGERS = {
    "model": {"model": {"_target_": "evil.call"}},
    "os.system": {"model": {"_target_": "keras.src.utils.file_utils.os.system", "_args_": ["touch marker"]}},
    "nested": {"loss": {"other": [{"_target_": "evil.call"}]}},
    "interpolated": {"evil": TOUCH, "metric": {"x": "${evil}"}},
    "new callback": {"callback": {"x": TOUCH}},
    "hydra.callbacks": {"hydra": {"callbacks": {"x": TOUCH}}},
    "launcher": {"hydra": {"launcher": {"_target_": "evil.call"}}},
    "in the launcher": {"hydra": {"launcher": {"x": TOUCH}}},
    "sweeper": {"hydra": {"sweeper": {"_target_": "evil.call"}}},
    "in the sweeper": {"evil": TOUCH, "hydra": {"sweeper": {"x": "${evil}"}}},
    "handler": {"hydra": {"job_logging": {"handlers": {"x": {"class": "evil.Handler"}}}}},
    "factory": {"hydra": {"hydra_logging": {"formatters": {"x": {"()": "evil.call"}}}}},
    "ext": {"hydra": {"job_logging": {"handlers": {"console": {"stream": "ext://evil.call"}}}}},
    "log file": {"hydra": {"job_logging": {"handlers": {"file": {"filename": "marker", "delay": False}}}}},
    "log attribute": {"hydra": {"job_logging": {"handlers": {"file": {".": {"baseFilename": "marker"}}}}}},
    "logging elsewhere": {"evil": {"version": 1}, "hydra": {"job_logging": "${evil}"}},
    "PATH": {"hydra": {"job": {"env_set": {"PATH": "bin"}}}},
    "LD_PRELOAD": {"hydra": {"job": {"env_set": {"LD_PRELOAD": "evil.so"}}}},
    "GIT": {"hydra": {"job": {"env_set": {"GIT_CONFIG_COUNT": "1"}}}},
    "job name": {"hydra": {"job": {"name": "../../marker"}}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("stranger", "way"),
    [
        *((name, way) for name in STRANGERS for way in ("experiment", "overrides")),
        ("hydra.callbacks", "root"),
        ("PATH", "root"),
    ],
)
def test_a_strangers_config_is_refused_before_anything_of_it_is_imported(tmp_path, monkeypatch, stranger, way):
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    content = STRANGERS[stranger]
    config_name = "x" if way == "root" else None
    typed = [f"++{key}={value}" for key, value in _flat(content)]
    words = {"root": [], "experiment": ["experiment=x"], "overrides": typed}[way]
    defaults = {"defaults": ["train", "_self_"]} if way == "root" else {}
    text = "# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create({**defaults, **content}))
    path = tmp_path / "theirs" / ("experiment/x.yaml" if way == "experiment" else "x.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        compose(words, config_dir="theirs", config_name=config_name)
    assert not (tmp_path / "marker").exists() and "evil" not in sys.modules
    assert len(str(refused.value).splitlines()) <= 10


def _flat(value, key=""):
    """Overrides that say the same; a mapping with odd keys as a whole."""
    if isinstance(value, dict) and not {"_target_", "()", "."} & set(value):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else name)
    elif isinstance(value, dict):
        yield key, json.dumps(value).replace('"()"', "'()'").replace('"', "")
    else:
        yield key, value if "$" in str(value) else f"'{value}'" if isinstance(value, str) else str(value).lower()


@pytest.mark.parametrize("path", ["pkg://evil", "structured://evil"])
def test_a_search_path_is_a_folder(tmp_path, monkeypatch, path):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    (tmp_path / "theirs").mkdir()
    root = {"defaults": ["train", "_self_"], "hydra": {"searchpath": [path]}}
    (tmp_path / "theirs" / "x.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(root)))
    with pytest.raises(ConfigError, match=f"{path} would be imported"):
        compose([f"hydra.searchpath=['{path}']"])
    for spelled in ("+hydra.searchpath", "++hydra.searchpath"):
        with pytest.raises(ConfigError, match=f"{path} would be imported"):
            compose([f"{spelled}=['{path}']"])
    with pytest.raises(ConfigError, match=f"{path} would be imported"):
        compose([], config_dir=str(tmp_path / "theirs"), config_name="x")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(("sweeper", "text"), [("grid", "params: {{'{key}': 1}}"), ("optuna", "params: ${{evil}}")])
@pytest.mark.parametrize("key", ["hydra.x", "+hydra.job.env_set", "~hydra.x", "hydra/launcher", "+model@hydra.job"])
def test_a_search_has_no_settings_of_hydra(tmp_path, sweeper, key, text):
    (tmp_path / "search").mkdir()
    lines = ["# @package _global_", "defaults:", f"- override /hydra/sweeper: {sweeper}", f"evil: {{'{key}': 1}}"]
    lines += ["hydra:", "  sweeper:", f"    {text.format(key=key)}"]
    (tmp_path / "search" / "x.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=re.escape(f"hydra.sweeper.params has '{key}', a setting of Hydra's")):
        check_sweep(["search=x", "seed=1,2"], config_dir=str(tmp_path))


def test_a_job_that_others_have_composed_is_judged_again(monkeypatch):
    """As a sweeper's that gives its launcher what it has not shown to us."""
    cfg = compose(["data=digits", "model=cnn"])
    with open_dict(cfg):
        cfg.hydra.job.env_set = {"LD_PRELOAD": "evil.so"}
        cfg.hydra.runtime.output_dir = "nowhere"
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(cfg)
    with pytest.raises(ConfigError, match=r"hydra.job.env_set.LD_PRELOAD cannot be given"):
        execute_job(cfg)


@pytest.mark.parametrize("folder", ["../elsewhere", "/elsewhere", "..", "a/b"])
def test_hydras_files_stay_in_the_runs_directory(folder):
    with pytest.raises(ConfigError, match=r"hydra.output_subdir is .*; it must be a folder's name"):
        compose([f"hydra.output_subdir={folder}"])


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """A folder with a stranger's options beside a module that leaves a marker when anything of it runs."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "evil.py").write_text(EVIL)
    for name, content in {
        "callbacks": {"hydra": {"callbacks": {"x": TOUCH}}},
        "logging": {"hydra": {"hydra_logging": {"handlers": {"console": {"class": "evil.Handler"}}}}},
        "model": {"model": {"_target_": "evil.call"}},
        "params": {"hydra": {"sweeper": {"params": {"+hydra.job_logging.handlers.x": "{class:evil.Handler}"}}}},
    }.items():
        (folder / "theirs" / "experiment").mkdir(parents=True, exist_ok=True)
        text = "# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(content))
        (folder / "theirs" / "experiment" / f"{name}.yaml").write_text(text)
    pickled = "# @package _global_\nx: !!python/object/apply:os.system ['touch marker']\n"
    (folder / "theirs" / "experiment" / "yaml.yaml").write_text(pickled)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "src.train --config-dir theirs experiment=callbacks",
        "src.train --help --config-dir theirs experiment=logging",
        "src.train --multirun --config-dir theirs experiment=callbacks seed=0,1",
        "src.train --multirun --config-dir theirs experiment=params hydra/launcher=basic",
        "src.train --multirun --config-dir theirs experiment=params hydra/launcher=joblib hydra/sweeper=basic",
        "src.train hydra.searchpath=[theirs] experiment=model",
        "src.train --config-dir theirs experiment=yaml",
        "src.train --experimental-rerun config.pickle",
        "src.train +hydra.callbacks.x={_target_:evil.call}",
        "src.verify_resume model._target_=evil.call",
        "src.data data._target_=evil.call",
    ],
)
def test_no_command_runs_a_strangers_config(strangers, command):
    module, *words = command.split()
    result = run_module(module, *words, cwd=strangers, MARKER=str(strangers / "marker"))
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) <= 10
    assert sorted(path.name for path in strangers.iterdir() if path.name != "__pycache__") == ["evil.py", "theirs"]
    assert not (strangers / "__pycache__").exists()


@pytest.mark.parametrize("module", ["src.evaluate", "src.train"])
def test_nor_does_a_strangers_run(tmp_path, module):
    """What evaluates a run reads the config that lies in it, and a branch its overrides."""
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / "checkpoints" / "best").mkdir(parents=True)
    (tmp_path / "evil.py").write_text(EVIL)
    cfg = compose(["data=digits", "model=cnn"])
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.data._target_ = "evil.call"
    OmegaConf.save(cfg, run / ".hydra" / "config.yaml")
    record = {"id": "0" * 8, "config_hash": "0" * 64, "name": "x", "status": "completed", "metrics": {}, "seed": 0}
    record |= {"overrides": ["model._target_=evil.call"], "best": None, "monitor": "val/loss", "mode": "min"}
    (run / "run.json").write_text(json.dumps(record))
    prefix = run / "checkpoints"
    for folder in (prefix, prefix / "best"):
        _checkpoint(folder)
    words = [str(run)] if module == "src.evaluate" else [f"resume={run}"]
    result = run_module(module, *words, cwd=tmp_path, MARKER=str(tmp_path / "marker"))
    assert result.returncode == 2 and "evil.call" in result.stderr, result.stderr
    assert not (tmp_path / "marker").exists()


def _checkpoint(folder):
    from src.training.manifest import write_manifest

    (folder / "ckpt-1.index").write_bytes(b"")
    write_manifest(folder / "ckpt-1", step=1, epoch=1, variables={})


def test_the_gate_imports_neither_hydra_nor_tensorflow():
    code = "import sys, src.config.targets; print({'hydra', 'omegaconf', 'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


class Net(keras.Model):
    """With a call of its own, as in Keras's guides."""

    def __init__(self, units=3):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(keras.layers.Flatten()(inputs))


def net(kind):
    """A model of each kind."""
    inputs, other, dense = keras.Input((4,)), keras.Input((4,)), keras.layers.Dense(3)
    return {
        "subclass": Net,
        "sequential without an input": lambda: keras.Sequential([keras.layers.Flatten(), dense]),
        "nothing": lambda: None,
        "layer": lambda: dense,
        "two inputs": lambda: keras.Model([inputs, other], dense(inputs + other)),
        "two outputs": lambda: keras.Model(inputs, [dense(inputs), inputs]),
    }[kind]()


@pytest.mark.parametrize(("kind", "told"), [("nothing", "builtins.NoneType"), ("layer", "keras.")])
def test_what_is_no_model_is_refused_in_our_words(monkeypatch, kind, told):
    monkeypatch.setattr("src.config.targets.resolve", lambda *_, **__: lambda: net(kind))
    with pytest.raises(
        TargetError, match=rf"^model \(mine.net\) returns an object of {told}.*: a run takes a keras.Model"
    ):
        build({"_target_": "mine.net"}, key="model")


@pytest.mark.parametrize("kind", ["subclass", "sequential without an input", "two inputs", "two outputs"])
def test_any_keras_model_is_one(monkeypatch, kind):
    monkeypatch.setattr("src.config.targets.resolve", lambda *_, **__: lambda: net(kind))
    assert isinstance(build({"_target_": "mine.net"}, key="model"), keras.Model)

"""Mistakes in options, files of options and data: each is answered before the first step, in at most ten lines that
name the key or file, the value and the way out, with exit code 2 or 1.

What can be known before TensorFlow is imported is asked of `compose`, as every command does it, and of the command
itself where its time counts; the rest of the real command, in processes that have imported TensorFlow already.
"""

from __future__ import annotations

import copy
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from src.config import checks, composition, unknown_keys
from src.config.compose import ConfigError, compose
from src.config.origins import ComposedFile, Origins, shown
from src.runs.branch import branch
from src.runs.run import Run
from src.train import _command
from tests.runs.made import make_run
from tests.support.folders import save, write_classes, write_pairs
from tests.support.helpers import DIGITS, ROOT, train

DIABETES = ROOT / "src" / "data" / "diabetes" / "diabetes.csv"
FOLDER = DIABETES.parent


# The command, and what its answer must name.
BEFORE_TENSORFLOW = {
    "optimiser=adam": ["optimiser=adam", "'optimiser'", "Did you mean optimizer?"],
    "model=unte": ["model=unte", "Did you mean unet?"],
    "optimizer=adma": ["'adma'", "Did you mean adam?"],
    "lr=0.1": ["'lr'", "Did you mean optimizer.learning_rate?"],
    "optimizer.lr=1": ["'optimizer.lr'", "Did you mean optimizer.learning_rate?"],
    "data.transforms.shft=null": ["Did you mean data.transforms.shift?"],
    "loss.class_weights=balanced": ["'loss.class_weights'", "Of loss, cross_entropy, dice, focal, tversky have it"],
    "+optimizer.beta_1=0.5": ["+optimizer.beta_1", "is there already", "optimizer.beta_1=..."],
    "data=table data.missing={size:100}": ["data.missing is empty", "'+data.missing={size:100}' adds 'size'"],
    "data.transforms.shift={max:1}": ["data.transforms.shift has _target_, max_pixels", "adds 'max'"],
    "data=digits monitor=val/accuracy mode=min": ["mode is min", "the worst val/accuracy", "give mode=max"],
    "monitor=val/loss mode=max": ["mode is max", "the worst val/loss", "give mode=min"],
    "data=digits metric=classification monitor=val/mean_f1 mode=min": ["the worst val/mean_f1", "mode=max"],
    "optimizer=adam optimizer=sgd": ["optimizer=adam and optimizer=sgd", "optimizer is given twice"],
    "batch_size=32 batch_size=64": ["batch_size=32 and batch_size=64", "batch_size is given twice"],
    "trainer.gradient_accumulation_steps=64": ["gradient_accumulation_steps is 64", "batch_size is 32", "give fewer"],
    "callback.export.directory=/home/x": ["callback.export.directory is '/home/x'", "${run.dir}/..."],
    "callback.images.picture=${run.dir}/../x.png": ["callback.images.picture is", "outside of the run's directory"],
    "data=image_folder data.path=nowhere dry_run=true": ["data.path is 'nowhere'", "no such file or folder"],
    "init_from=nowhere dry_run=true": ["init_from is 'nowhere'", "no such file or folder"],
    "learner=distillation learner.teacher=nowhere.keras dry_run=true": ["learner.teacher is 'nowhere.keras'"],
    "data=table data.target=progresion": ["data.target", "'progresion'", "Did you mean progression?"],
    f"data=texts data.path={DIABETES} data.label=bmi": ["no column 'text'", "; give data.text=COLUMN"],
    "data=table data.columns=[age,nothing]": ["data.columns", "no column 'nothing'", "it has age, sex"],
    f"data=texts data.path={DIABETES} data.label=sxe": ["data.text", "no column 'text'"],
    f"data=texts data.path={DIABETES} data.text=sex data.label=sxe": ["data.label", "Did you mean sex?"],
    "data=table data.val_share=0.5 data.test_share=0.5": ["data.val_share and data.test_share are 0.5", "below 1"],
    "data=windows data.val_share=0.9": ["data.val_share and data.test_share are 0.9 and 0.15", "below 1"],
    "data=table data.kinds.age=categories": ["data.kinds is empty, and +data.kinds.age=categories adds to it"],
    "data=image_folder data.class_names=a,b": ["--multirun", "a list is written 'data.class_names=[a,b]'"],
    "optimizer.learning_rate=0,001": ["--multirun", "with a point, optimizer.learning_rate=0.001"],
    "monitor=val/f1": ["'val/f1'", "metric=classification has val/mean_f1"],
    "epochs@foo=3": ["epochs@foo=3", "no group of options"],
    "run=null": ["run is filled in by the run itself"],
    "epochs=ten": ["epochs=ten", "whole number", "15"],
    "epochs=2.5": ["2.5", "whole number"],
    "epochs=0": ["epochs is 0", "at least 1"],
    "batch_size=": ["batch_size is ''", "32"],
    "batch_size=-4": ["batch_size is -4", "at least 1"],
    "seed=null": ["seed is null", "whole number", "0"],
    "optimizer.learning_rate=fast": ["'fast'", "a number", "0.003"],
    "optimizer.learning_rate=-1": ["optimizer.learning_rate is -1", "above 0"],
    "optimizer.beta_1=1.5": ["optimizer.beta_1 is 1.5", "below 1"],
    "optimizer.epsilon=-1": ["optimizer.epsilon is -1", "at least 0"],
    "optimizer=sgd optimizer.momentum=2": ["optimizer.momentum is 2", "at most 1"],
    "model.dropout=2": ["model.dropout is 2", "below 1"],
    "model.filters=0": ["model.filters is 0", "at least 1"],
    "model.filters=[8,16]": ["model.filters is [8, 16]", "a whole number", "12"],
    "model.depth=2.5": ["model.depth is 2.5", "whole number"],
    "model=5": ["no option 5", "unet"],
    "callback.export=5": ["callback.export is 5", "a mapping of options, or null"],
    "schedule.warmup_fraction=3": ["schedule.warmup_fraction is 3", "below 1"],
    "schedule.warmup_epochs=some": ["'some'", "a number"],
    "loss=cross_entropy loss.label_smoothing=1": ["loss.label_smoothing is 1", "below 1"],
    "data.limit=20": ["data.limit is 20", "at most 1"],
    f"data=image_folder data.path={FOLDER} data.image_size=32 data.resize=pad": [
        *("data.resize=pad gives masks edges", "data.ignore_label=255")
    ],
    f"data=class_folder data.path={FOLDER} data.resize=crop": ["data.resize=crop", "data.image_size: give that too"],
    "data.resize=pad": ["data.resize=pad", "data.image_size: give that too"],
    "data.image_size=48 data.resize=stretch": ["data.resize is 'stretch'", "pad, crop, or null"],
    "data.image_size=[48]": ["data.image_size is [48]", "[height, width]"],
    "precision=float16": ["'float16'", "mixed_float16"],
    "trainer.clip_norm=-1": ["trainer.clip_norm is -1", "above 0"],
    "trainer.gradient_accumulation_steps=0": ["trainer.gradient_accumulation_steps is 0", "null"],
    "strategy=mirrored strategy.devices=0": ["strategy.devices is 0", "at least 1", "null"],
    "strategy=mirrored trainer.jit_compile=true": ["trainer.jit_compile does not go with a strategy", "leave one"],
    "strategy=multi_worker evaluate_test=true": [
        "evaluate_test does not go with strategy=multi_worker",
        "src.evaluate",
    ],
    "monitor=val/acuracy": ["'val/acuracy'", "Did you mean val/accuracy?"],
    "monitor=val/loss": ["mode=min or mode=max"],
    "metric=segmentation_full monitor=val/iuo/cat mode=max": ["'val/iuo/cat'", "val/mean_iou", "val/iou/<class>"],
    "data=image_folder": ["data.path must be given", "data.path=...", "conf/data/image_folder.yaml"],
    "seed=1,2": ["'seed=1,2'", "--multirun"],
    "epochs=[1": ["'epochs=[1'", "input '[1'", "key=value"],
    "epochs==5": ["'epochs==5'", "input '=')", "key=value"],
    "name='a": ['"name=\'a"', "quote"],
    "epochs": ["'epochs' is no override; give epochs=..."],
    "epochs:5": ["'epochs' is no override; give epochs=5"],
    "data=image_folder data.path=[a,b]": ["data.path is ['a', 'b'], a list", "the name of one folder"],
    "data=class_folder data.path={a:b}": ["data.path is {'a': 'b'}, a mapping", "the name of one folder"],
    "data=class_folder data.path=2024": ["data.path is 2024, a whole number", "\"data.path='2024'\""],
    "data=image_folder data.path=null": ["data.path is null", "the name of one folder"],
    "data=digit_scenes data.data_dir=[a]": ["data.data_dir is ['a'], a list", "one folder, or null"],
    "+run.dir=x": ["run.dir", "filled in by the run"],
    "resume=nowhere": ["resume=nowhere is no run", "outputs/"],
    "+other.key=1": ["there is no key 'other', so nothing would read it"],
    "+optimizer@other=sgd": ["there is no key 'other', so nothing would read it"],
    "model._target_=os.system": ["'os.system'", "src.models", "cannot be allowed by a line in conf/targets.txt"],
    "+callback.x.patience=3": ["callback.x has no _target_", "early_stopping"],
    "hydra.launcher.n_job=2": ["'hydra.launcher.n_job'", "Did you mean hydra.launcher.n_jobs?"],
    "~epochs": ["~epochs", "epochs=..."],
    "optimizer@opt2=sgd": ["optimizer@opt2", "write optimizer=... without @"],
    "++optimizer=sgd": ["write optimizer=sgd without ++"],
    "~hydra.job": ["~hydra.job: Hydra needs hydra.job", "hydra.job=..."],
    "hydra.job=5": ["hydra.job=5: hydra.job is a mapping", "hydra.job.name=..."],
    "hydra.callbacks.x=3": ["hydra.callbacks.x=3", "'+hydra.callbacks.<name>._target_=...'"],
    "+hydra.callbacks.x=3": ["hydra.callbacks.x is 3", "_target_"],
    "hydra.launcher=3": ["hydra.launcher is 3", "_target_"],
    "hydra.mode=5": ["hydra.mode=5", "--cfg hydra"],
    "hydra.searchpath=3": ["hydra.searchpath=3", "hydra.searchpath=[my_conf]"],
    "+hydra.job.nme=x": ["+hydra.job.nme=x: Hydra has no setting", "Did you mean hydra.job.name?"],
    "+hydra.sweeper.nope=3": ["hydra.sweeper.nope", "takes no argument nope"],
    "model.num_classes=${run.num_classs}": [
        "model.num_classes is '${run.num_classs}'",
        "Did you mean run.num_classes?",
    ],
    "optimizer._target_=SGD": ["optimizer._target_ is 'SGD'", "optimizer=sgd", "`- override /optimizer: sgd`"],
    "name=${hydra.job.num}": ["name", "'hydra.job.num'", "give a value"],
}

# What is added to an option, or named as another target, and the answer to whoever starts that run.
ADDED = {
    "+optimizer.lrr=1": ["optimizer.lrr: keras.optimizers.Adam", "Did you mean learning_rate?"],
    "+callback.progress.x.y=1": [
        "+callback.progress.x.y=1: callback.progress.x: src.callbacks.progress.Progress takes"
    ],
    "+model.filter=3 +trainer.clipnorm=1 +callback.progress.titel=x": [
        *("model.filter:", "Did you mean filters?", "trainer.clipnorm", "Did you mean clip_norm?"),
        *("callback.progress.titel", "Did you mean title?"),
    ],
    "optimizer._target_=keras.optimizers.SGD": ["optimizer.beta_1: keras.optimizers.SGD takes no argument beta_1"],
    "+optimizer@optimizer.inner=sgd": ["optimizer.inner: keras.optimizers.Adam takes no argument inner"],
    "+callback.foo=null": ["callback.foo is null, which leaves nothing out", "early_stopping"],
    "+data.transforms.shfit=null": ["Did you mean shift?"],
    "+callback.foo=3": ["callback.foo has no _target_"],
    "loss._target_=keras.losses.Dise": ["keras.losses has no Dise. Did you mean Dice?"],
    "+callback.x._target_=src.callbacks.early_stoping.EarlyStopping": [
        *("no module src.callbacks.early_stoping", "Did you mean early_stopping?")
    ],
}

# A file of the user's, below the folder of options that is named with --config-dir; and what the answer must name.
OF_FILES = {
    "experiment/x.yaml": [
        ("epochs: ten", ["x.yaml: epochs is 'ten'", "whole number", "15"]),
        ("epochs: 0", ["x.yaml: epochs is 0", "at least 1"]),
        ("checkpoints: 5", ["there is no key 'checkpoints'"]),
        ("optimizer: {beta_2: 2}", ["x.yaml: optimizer.beta_2 is 2", "below 1"]),
        ("monitor: val/nope", ["x.yaml: monitor is 'val/nope'", "val/mean_iou"]),
        ("trainer: 5", ["x.yaml: trainer is 5", "a mapping"]),
        ("model: mlp", ["x.yaml: model is 'mlp'", "- override /model: mlp"]),
        ("callback: {x: {patience: 3}}", ["x.yaml: callback.x has no _target_"]),
        (
            "model: {_target_: nowhere.net}",
            ["x.yaml: model._target_ is 'nowhere.net'", "conf/targets.tests.txt"],
        ),
        ("data: {shuffle: 'no'}", ["x.yaml: data.shuffle is 'no'", "a boolean"]),
        ("data: {batch_size: many}", ["x.yaml: data.batch_size is 'many'", "a whole number", "32"]),
        ("defaults: [{override /model: unte}]", ["x.yaml: model=unte", "Did you mean unet?"]),
        ("model: {num_classes: '${run.num_classs}'}", ["x.yaml: model.num_classes is '${run", "run.num_classes?"]),
        ("epochs: ${oc.env:NOT_THERE}", ["x.yaml: epochs is '${oc.env:NOT_THERE}': ", "not found"]),
        ("optimizer: {_target_: SGD}", ["x.yaml: optimizer._target_ is 'SGD'", "`- override /optimizer: sgd`"]),
        ("optimizer: SGD", ["x.yaml: optimizer is 'SGD'", "`- override /optimizer: SGD`"]),
        ("epochs: [1", ["x.yaml, line 3 cannot be read", "expected ',' or ']'"]),
        ("callback: {export: {directory: /home/x}}", ["x.yaml: callback.export.directory is '/home/x'", "run.dir"]),
        ("hydra: {job: {env_set: {PATH: here}}}", ["hydra.job.env_set.PATH", "your shell"]),
        ("epoch: 1", ["x.yaml: there is no key 'epoch', so nothing would read it", "Did you mean epochs?"]),
        ("optimiser: {learning_rate: 0.1}", ["x.yaml: there is no key 'optimiser'", "Did you mean optimizer?"]),
        ("learning_rate: 0.1", ["x.yaml: there is no key 'learning_rate'", "optimizer.learning_rate"]),
        ("default: [{override /model: unet}]", ["x.yaml: there is no key 'default'", "Did you mean defaults?"]),
        ("optimizer: {nope: 1}", ["x.yaml: optimizer.nope: keras.optimizers.Adam takes no argument nope", "beta_1"]),
        ("trainer: {clip_nrom: 1}", ["x.yaml: trainer.clip_nrom: the trainer has no", "Did you mean clip_norm?"]),
        ("callback: {images: {exmaples: 3}}", ["x.yaml: callback.images.exmaples: ", "Did you mean examples?"]),
        ("callback: {exprot: null}", ["x.yaml: callback.exprot is null, which leaves", "Did you mean export?"]),
        ("optimizer: {_targt_: x}", ["x.yaml: optimizer._targt_: ", "Did you mean _target_?"]),
        ("optimizer.learning_rate: 1", ["x.yaml: there is no key 'optimizer.learning_rate'", "optimizer: {learning_"]),
        ("mine: {a: 1, b: 2}\nepochs: ${mine.a}", ["x.yaml: there is no key 'mine.b', so nothing would read it"]),
        ("defaults: [/optimizer/sgd@optimizer.inner]", ["conf/optimizer/sgd.yaml: optimizer.inner: keras.optim"]),
        ("defaults: [/experiment/whole]", ["whole.yaml: there is no key 'epoch'", "Did you mean epochs?"]),
        ("defaults: [/experiment/part@optimizer]", ["part.yaml: optimizer.batch_size: keras.optimizers.Adam takes"]),
        ("hydra: {jobs: {name: x}}", ["x.yaml: Hydra has no setting hydra.jobs", "--cfg hydra"]),
        ("hydra: {job: 5}", ["x.yaml: a setting of Hydra's is 5", "mapping"]),
        ("run: {total_steps: 5}", ["x.yaml: run is filled in by the run itself"]),
    ],
    "debug/x.yaml": [
        ("epochs: 1", ["x.yaml: nothing reads what is below 'debug'", "begins with the line # @package _global_"]),
        ("defaults: [{/optimizer: sgd}]", ["debug/x.yaml: nothing reads what is below 'debug'", "_global_"]),
        ("\ufeff# @package _global_\nepochs: 1", ["x.yaml: nothing reads what is below 'debug'", "byte order mark"]),
    ],
    "search/x.yaml": [("hydra: {sweeper: {n_trials: 3}}", ["x.yaml: nothing reads what is below 'search'"])],
    "model/x.yaml": [
        ("_target_: src.models.unet.unet\nfilter: 8", ["model/x.yaml: model.filter: src.models.unet.unet takes"]),
        ("_target_: src.models.unet.unet\nfilters: ???", ["model/x.yaml: model.filters must be given"]),
    ],
}

# What only libraries and data know, of the digits' classifier unless it says otherwise.
BEFORE_THE_FIRST_STEP = {
    "loss._target_=keras.losses.Dise": (2, ["keras.losses has no Dise. Did you mean Dice?"]),
    "model=cnn ~model.filters +model._args_=[[8,8,1]]": (2, ["model (src.models.cnn.cnn)", "positional"]),
    "optimizer._target_=keras.optimizers.schedules.CosineDecay": (2, ["CosineDecay takes no argument learning_rate"]),
    "callback.progress._target_=src.callbacks.progres.Progress": (2, ["no module src.callbacks.progres", "progress?"]),
    "model=unet": (
        2,
        ["model=unet does not fit data=digits", "8x8x10", "one of 10 labels for each image", "cnn ("],
    ),
    "data.dataset=digits:2.0.0": (2, ["data.dataset is 'digits:2.0.0'", "digits:1.0.0"]),
    f"epochs={10**10} callback.checkpoint.max_to_keep={10**10}": (
        1,
        ["outputs/mistakes", "checkpoints of", "free", "callback.checkpoint.max_to_keep=1"],
    ),
    "loss=cross_entropy loss.class_weights=[1,2]": (2, ["loss.class_weights has 2 numbers for 10 classes", "balanced"]),
    "loss=combo loss.losses.dice.class_weights=[1,2]": (2, ["loss.losses.dice.class_weights has 2 numbers"]),
    "callback.progress=null callback.export.directory=elsewhere": (
        2,
        ["callback.export.directory is 'elsewhere'", "outside of the run's directory"],
    ),
    "data=image_folder data.path=file.txt": (2, ["file.txt", "data.path"]),
    "data=image_folder data.path=empty": (2, ["empty", "images"]),
    "data=image_folder data.path=no_masks": (2, ["no_masks"]),
    "data=image_folder data.path=jpeg_masks": (1, ["jpeg_masks", "PNG"]),
    "data=image_folder data.path=sizes": (2, ["data.image_size"]),
    "data=image_folder data.path=good data.class_names=[a,b]": (1, ["class_names", "2"]),
    "model=mlp model.num_classes=5": (2, ["5 scores", "wants 10", "leave model.num_classes out"]),
    "loss=binary_crossentropy": (2, ["it compares number with number", "loss=sparse_categorical_crossentropy"]),
    "data=class_folder data.path=two_images data.image_size=8": (
        2,
        ["no validation split (data.val_share is 0.15, of 2 examples too little)", "monitor=train/accuracy"],
    ),
    "data=tfds data.dataset=mnits data.download=false data.data_dir=empty": (2, ["mnits", "mnist"]),
}

# What others of these show as well.
ALIKE = {
    "callback.progress=null callback.export.directory=elsewhere",
    "callback.progress._target_=src.callbacks.progres.Progress",
    "data.dataset=digits:2.0.0",
    "model=cnn ~model.filters +model._args_=[[8,8,1]]",
    "loss=combo loss.losses.dice.class_weights=[1,2]",
    "data=image_folder data.path=file.txt",
    "data=image_folder data.path=empty",
}


def check_answer(answer, named):
    assert [text for text in named if text not in answer] == [], answer
    assert len(answer.splitlines()) <= 10 and "Traceback" not in answer and "Error:" not in answer


@pytest.mark.parametrize("command", BEFORE_TENSORFLOW, ids=str)
def test_in_a_command(command):
    with pytest.raises(ConfigError) as refused:
        compose(branch(command.split()))
    check_answer(str(refused.value), BEFORE_TENSORFLOW[command])


@pytest.mark.parametrize("command", ADDED, ids=str)
def test_what_is_added_must_be_read(command):
    with pytest.raises(ConfigError) as refused:
        compose(command.split(), starts=True)
    check_answer(str(refused.value), ADDED[command])


@pytest.mark.parametrize("asked", ["--help", "--cfg job", "--info defaults", "--version"])
def test_whoever_only_asks_hears_of_a_mistake(asked, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", *asked.split(), "+optimizer.lrr=1"])
    with pytest.raises(ConfigError, match=r"optimizer\.lrr: keras.optimizers.Adam takes no argument lrr"):
        _command(sys.argv[1:])
    assert capsys.readouterr().out == ""


def test_a_run_that_is_there_says_itself_what_of_its_files_is_gone(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("a,y\n1,2\n")
    for path, told in ((tmp_path / "gone.csv", "no such file"), (file, "no column 'progression'")):
        words = ["data=table", f"data.path={path}"]
        with pytest.raises(ConfigError, match=told):
            compose(words)
        assert compose(words, is_known=lambda cfg: cfg.data.target == "progression")


def test_a_config_that_is_not_whole_can_be_looked_at():
    cfg = compose(["data=image_folder"], starts=True, is_whole=False)
    assert OmegaConf.is_missing(cfg.data, "path")


def test_a_directory_that_only_a_job_knows_is_refused_with_a_way_out():
    with pytest.raises(ConfigError, match=r"hydra\.run .*after what the run computes.*run_id"):
        Run.of(compose([*DIGITS, "hydra.run.dir=outputs/${hydra.job.num}"]))


def test_what_targets_take_may_be_added():
    cfg = compose(["+optimizer.amsgrad=true", "optimizer._target_=keras.optimizers.AdamW"], starts=True)
    assert cfg.optimizer.amsgrad


GROUPS = ("callback", "data", "loss", "metric", "model", "optimizer", "schedule", "trainer")
OPTIONS = [path for group in GROUPS for path in sorted((checks.CONFIG_DIR / group).glob("*.yaml"))]


def test_each_misspelled_key_of_each_option_is_found_in_a_file():
    """In every mapping of every option, with the nearest right one."""
    mine, found = checks.CONFIG_DIR / "experiment" / "mine.yaml", 0
    for path in OPTIONS:
        group = path.parent.name
        option = ComposedFile(path, False, group, {group: checks.option_of(group, path.stem)})
        for *above, key in keys_in(option.content):
            config = {"trainer": {}, **copy.deepcopy(option.content)}
            functools.reduce(dict.__getitem__, above, config)[f"{key}x"] = 1
            wrong = functools.reduce(lambda value, name: {name: value}, [f"{key}x", *reversed(above)], 1)
            composed = [option, ComposedFile(mine, False, None, wrong)]
            origins = Origins([(shown(file.path), file.content) for file in composed])
            with pytest.raises(ConfigError) as refused:
                unknown_keys.check_group_keys(config, origins, composed)
            said = str(refused.value)
            assert said.startswith(f"conf/experiment/mine.yaml: {'.'.join([*above, key])}x: "), said
            assert said.endswith(f". Did you mean {key}?"), said
            found += 1
    assert found > 200


def keys_in(node, above=()):
    """The path of each key that is an argument of a target or an option of the trainer, if it has three letters."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from keys_in(value, (*above, key))
        if len(key) > 2 and ("_target_" in node or above == ("trainer",)):
            yield (*above, key)


@pytest.mark.parametrize(("typed", "meant"), [("zzz", "the newest: {1}, {0}"), ("{name}", ". Did you mean {0}?")])
def test_a_run_to_resume_that_is_none_names_those_that_may_be_meant(tmp_path, monkeypatch, typed, meant):
    monkeypatch.chdir(tmp_path)
    runs = [make_run(Path("outputs/x"), number) for number in (1, 2)]
    typed = typed.format(name=runs[0].name[:-1])
    with pytest.raises(
        ConfigError, match=re.escape(f"resume={typed} is no run") + ".*" + re.escape(meant.format(*runs))
    ):
        branch([f"resume={typed}"])


@pytest.mark.parametrize(
    ("path", "text", "named"), [(path, *row) for path, rows in OF_FILES.items() for row in rows], ids=str
)
def test_in_a_file_of_options(tmp_path, path, text, named):
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text(f"# @package _global_\n{text}\n" if "experiment" in path else f"{text}\n")
    for name, said in {"whole": "# @package _global_\nepoch: 1\n", "part": "batch_size: 8\n"}.items():
        (file.parent / f"{name}.yaml").write_text(said)
    with pytest.raises(ConfigError) as refused:
        compose([path.replace("/", "=").removesuffix(".yaml")], config_dir=str(tmp_path))
    check_answer(str(refused.value), named)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("optimizer.lrr=1", ["error: optimizer.lrr=1", "Did you mean optimizer.learning_rate?"]),
        ("epochs=ten", ["error: epochs=ten: epochs is 'ten'"]),
        ("epochs 5", ["error: 'epochs' is no override; give epochs=5\n"]),
        ("--epochs 5", ["error: there is no option --epochs; write epochs=5"]),
        ("-epochs=5", ["error: there is no option -epochs=5; write epochs=5"]),
    ],
)
def test_the_command_answers_without_tensorflow_and_leaves_nothing(tmp_path, command, named):
    """How fast it is: python -m benchmarks start."""
    code = "import sys; from src.train import main\ntry: main()\nfinally: print(sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code, *command.split()],
        **{"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True},
        check=False,
    )
    assert "'src.train'" in result.stdout and not re.search("'(tensorflow|keras|numpy|rich.console)'", result.stdout)
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    check_answer(result.stderr, named)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where users' files are."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "file.txt").write_text("no folder")
    (folder / "empty").mkdir()
    write_pairs(folder / "good", count=8)
    write_classes(folder / "two_images", {"cats": 1, "dogs": 1})
    for number in range(4):
        pixels = np.full((16, 16, 3), 40 * number, np.uint8)
        for name in ("no_masks", "jpeg_masks", "sizes"):
            save(folder / name / "images" / f"{number:03}.png", pixels[: 16 - number if name == "sizes" else 16])
        save(folder / "jpeg_masks" / "masks" / f"{number:03}.jpg", pixels[..., 0])
        save(folder / "sizes" / "masks" / f"{number:03}.png", pixels[: 16 - number, :, 0] // 40)
    return folder


@pytest.mark.parametrize(
    "command",
    [pytest.param(word, marks=[pytest.mark.exhaustive] * (word in ALIKE)) for word in BEFORE_THE_FIRST_STEP],
    ids=str,
)
def test_what_only_libraries_and_data_know(folder, command, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
    code, named = BEFORE_THE_FIRST_STEP[command]
    words = command.split()
    small = [] if any("model" in word.partition("=")[0] for word in words) else ["model=mlp"]
    data = [] if any(word.startswith("data=") for word in words) else ["data=digits"]
    result = train(*data, *small, *words, "name=mistakes", cwd=folder)
    answer = result.stderr[result.stderr.index("error: ") :]
    assert result.returncode == code and not result.stdout, result.stderr
    check_answer(answer, named)
    runs = [path for path in folder.glob("outputs/mistakes/*") if path.name != ".locks"]
    assert len(runs) == (1 if code == 1 else 0), "a wrong command is no run; a run without its data has failed"
    for run in runs:
        assert '"failed"' in (run / "run.json").read_text()
        run.rename(folder / f"seen-{len(list(folder.iterdir()))}")


def test_a_wrong_command_leaves_a_run_that_was_there_alone(tmp_path):
    """It exits with 2 for what only a constructor knows, and the directory is not the command's own."""
    (tmp_path / "here" / ".hydra").mkdir(parents=True)
    (tmp_path / "here" / "run.json").write_text('{"status": "failed"}')
    (tmp_path / "here" / "mine.txt").write_text("kept")
    # That Ftrl wants a constant rate is only found when it is built.
    result = train(*DIGITS, "optimizer=ftrl", "hydra.run.dir=here", "rerun=true", cwd=tmp_path)
    assert result.returncode == 2 and "the earlier run is back in here" in result.stderr
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [".hydra", "mine.txt", "run.json"]
    assert (tmp_path / "here" / "mine.txt").read_text() == "kept"


def test_a_folder_of_other_files_is_no_place_for_a_run(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    result = train(*DIGITS, "hydra.run.dir='.'", cwd=tmp_path)
    assert result.returncode == 2 and "has files and is no run's directory" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_in_a_sweep_a_job_stays_listed_with_its_reason(tmp_path):
    lean = ("callback.export=null", "callback.images=null", "callback.hparams=null", "callback.summaries=null")
    wrong = "model=unet_mobilenet_v2,cnn_pooled"  # which take larger images
    result = train("--multirun", "data=digits", "epochs=1", wrong, *lean, cwd=tmp_path)
    assert result.returncode == 1 and result.stdout.count("failed") >= 2, result.stdout
    assert len(list(tmp_path.glob("outputs/digits/*/run.json"))) == 2


def test_there_are_enough():
    files = sum(map(len, OF_FILES.values()))
    assert len(BEFORE_TENSORFLOW) + files + len(BEFORE_THE_FIRST_STEP) >= 40


def test_every_file_of_the_project_passes_its_own_checks(tmp_path):
    """No option of the project's own is taken for a mistake when an experiment says it again."""
    plain = OmegaConf.to_container(compose(list(DIGITS)), resolve=False)
    (tmp_path / "experiment").mkdir()
    content = {key: plain[key] for key in ("epochs", "model", "optimizer", "callback", "data", "trainer")}
    text = "# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(content))
    (tmp_path / "experiment" / "again.yaml").write_text(text)
    again = compose([*DIGITS, "experiment=again"], config_dir=str(tmp_path))
    assert again.model == compose(list(DIGITS)).model and Path(ROOT, "conf", "targets.txt").is_file()


@pytest.mark.parametrize("reference", ["${width}", "${ width }", "${..width}", "${[width]}", "${oc.select:width,1}"])
def test_a_key_of_ones_own_that_others_refer_to_is_read(tmp_path, reference):
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\nwidth: 24\nmodel: {{filters: '{reference}'}}\n"
    (tmp_path / "experiment" / "x.yaml").write_text(text)
    assert compose(["experiment=x"], config_dir=str(tmp_path)).model.filters == 24


def test_a_root_of_ones_own_may_lie_in_folders_and_say_more(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "more.yaml").write_text("# @package _global_\nepochs: 7\nprecision: null\nmy_note: x\n")
    (tmp_path / "base" / "root.yaml").write_text("# @package _global_\ndefaults: [/train, more, _self_]\nmine: 1\n")
    cfg = compose([], config_dir=str(tmp_path), config_name="base/root")
    assert (cfg.epochs, cfg.my_note, cfg.mine) == (7, "x", 1)


def test_folders_of_options_and_texts_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--config-dir is .*nowhere, and there is no such folder"):
        compose([], config_dir=str(tmp_path / "nowhere"))
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_bytes("# @package _global_\n# café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"experiment/x.yaml is no UTF-8 text: .*save it as UTF-8"):
        compose(["experiment=x"], config_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/optimizer: sgd", "mine.yaml: optimizer has an option already, so the line of its defaults must be {}"),
        ("{/optimizer: sgd}", "mine.yaml: optimizer has an option already, so the line of its defaults must be {}"),
        (
            "/optimizer@optimizer: sgd",
            "mine.yaml: optimizer has an option already, so the line of its defaults must be {}",
        ),
        ("optimizer: sgd", "for an option of optimizer, the line of its defaults must be {}"),
        ("override optimizer: sgd", "for an option of optimizer, the line of its defaults must be {}"),
        ("override /optimiser: sgd", "overrides optimiser, and there is no such group. Did you mean optimizer?"),
    ],
)
@pytest.mark.parametrize("group", ["experiment", "debug"])
def test_a_group_that_a_file_does_not_override_is_named_with_the_line_to_write(tmp_path, group, line, told):
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(f"# @package _global_\ndefaults:\n  - {line}\n")
    with pytest.raises(ConfigError) as caught:
        compose([f"{group}=mine"], config_dir=str(tmp_path))
    said = str(caught.value)
    assert told.format("`- override /optimizer: ") in said and "Multiple values" not in said and "Could not" not in said
    (tmp_path / group / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /optimizer: sgd\n")
    assert compose([f"{group}=mine"], config_dir=str(tmp_path)).optimizer._target_.endswith("SGD")


def test_the_file_without_override_is_named(tmp_path):
    for name, line in {
        "mine": "/optimizer: sgd  # mine",
        "right": "override /optimizer: sgd",
        "other": "/optimizer: adam",
    }.items():
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\ndefaults:\n  - {line}\n")
    error = Exception("Multiple values for optimizer. To override a value use 'override optimizer: sgd'")
    said = str(composition.composition_error(error, folders=[tmp_path]))
    assert said == (
        f"{os.path.relpath(tmp_path / 'experiment' / 'mine.yaml')}: optimizer has an option already, "
        "so the line of its defaults must be `- override /optimizer: sgd`"
    )
    without = str(composition.composition_error(error, folders=[tmp_path / "nowhere"]))
    assert without.startswith("optimizer has an option already: give optimizer=sgd without +, ")


def test_an_option_that_changes_other_groups_is_for_the_whole_config(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text("defaults: [{override /data: digits}]\n")
    with pytest.raises(ConfigError, match=r"experiment/x.yaml: its first line must be # @package _global_"):
        compose(["experiment=x"], config_dir=str(tmp_path))

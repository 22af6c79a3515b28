"""A wrong command is refused before anything is imported or made; the message names what, why and the way out."""

import pytest
from hydra import compose as hydra_compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import HealthCheck, assume, example, given, settings, strategies as st
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from src.config import compose as config
from src.config.checks import HIDDEN, plain_values
from src.config.command_line import parse_command
from src.config.compose import ConfigError, check as compose_check, check_sweep, compose, expand
from src.config.identity import config_hash, resolved_values

STOP = "callback=early_stopping "


@pytest.mark.parametrize(
    ("command", "named"),
    [
        # an option that a group does not have
        ("model=unte", ["model=unte", "unet_mobilenet_v2", "Did you mean unet?"]),
        ("model=resnet", ["'resnet'", "cnn", "unet, unet_mobilenet_v2"]),
        ("optimizer=adma", ["'adma'", "Did you mean adam?"]),
        ("data=digit", ["'digit'", "Did you mean digits?"]),
        ("callback=early_stoping", ["Did you mean early_stopping?"]),
        ("experiment=nope", ["experiment=nope", "digits_fast"]),
        ("+experiment=digits_fast", ["experiment", "without +"]),
        ("model=null", ["model=null", "null", "cnn"]),
        ("model=3", ["model=3", "no option 3", "cnn"]),
        ("optimizer=[adam,nope]", ["'nope'", "adamw"]),
        ("hydra/launcher=foo", ["'foo'", "basic"]),
        # a key that is not there
        ("optimiser=adam", ["optimiser=adam", "Did you mean optimizer?"]),
        ("epoch=3", ["'epoch'", "Did you mean epochs?"]),
        ("learning_rate=0.1", ["Did you mean optimizer.learning_rate?"]),
        ("optimizer.momentum=0.9", ["'optimizer.momentum'", "Of optimizer, muon, rmsprop, sgd have it"]),
        ("data.transforms.shft=null", ["Did you mean data.transforms.shift?"]),
        ("model.cnn.filters=2", ["Did you mean model.filters?"]),
        ("callback.early_stopping.patience=3", ["callback.early_stopping is null", "default, early_stopping"]),
        ("lr=1", ["'lr'", "Did you mean optimizer.learning_rate?"]),
        ("zzz=1", ["'zzz'", "--cfg job"]),
        ("~nope", ["'nope'", "--cfg job"]),
        ("hydra.foo=1", ["hydra.foo"]),
        ("hydra.launcher.n_job=2", ["'hydra.launcher.n_job'", "Did you mean hydra.launcher.n_jobs?"]),
        ("hydra/sweeper=optuna hydra.sweeper.ntrials=2", ["Did you mean hydra.sweeper.n_trials?"]),
        ("hydra/launcher=basic hydra.launcher.n_jobs=2", ["'hydra.launcher.n_jobs'"]),
        ("hydra/launcher=rq", ["'rq'", "pip install hydra-rq-launcher"]),
        # of the wrong type
        ("epochs=ten", ["epochs=ten", "'ten'", "whole number", "15"]),
        ("epochs=2.5", ["2.5", "whole number"]),
        ("epochs=true", ["epochs is true", "whole number"]),
        ("batch_size=", ["batch_size is ''", "32"]),
        ("optimizer.learning_rate=fast", ["'fast'", "a number", "0.003"]),
        ("optimizer.learning_rate=[0.1]", ["[0.1]", "list"]),
        ("rerun=yes", ["rerun is 'yes'", "boolean", "false"]),
        ("trainer.threads=two", ["'two'", "integer", "null"]),
        ("model.filters=many", ["model.filters is 'many'", "12"]),
        # out of range
        ("epochs=0", ["epochs is 0", "at least 1"]),
        ("epochs=null", ["epochs is null", "a whole number"]),
        ("batch_size=-1", ["batch_size is -1", "at least 1"]),
        ("seed=-1", ["seed is -1", "at least 0"]),
        ("seed=4294967296", ["seed is 4294967296", "at most 4294967295"]),
        ("mode=maximum", ["'maximum'", "min, max"]),
        ("stale=yes", ["'yes'", "ask, reuse, rerun"]),
        ("max_seconds=0", ["max_seconds is 0", "above 0", "null"]),
        ("log_every_steps=0", ["log_every_steps is 0"]),
        ("optimizer.learning_rate=0", ["optimizer.learning_rate is 0", "above 0"]),
        ("optimizer.learning_rate=nan", ["nan", "above 0"]),
        ("optimizer.learning_rate=inf", ["inf", "above 0"]),
        ("trainer.steps_per_call=0", ["trainer.steps_per_call is 0", "null"]),
        ("trainer.clip_norm=-1", ["trainer.clip_norm is -1", "above 0"]),
        ("trainer.threads=0", ["trainer.threads is 0"]),
        ("callback.checkpoint.max_to_keep=0", ["callback.checkpoint.max_to_keep is 0"]),
        (STOP + "callback.early_stopping.patience=0", ["callback.early_stopping.patience is 0"]),
        (STOP + "callback.early_stopping.min_delta=-1", ["callback.early_stopping.min_delta is -1"]),
        ("data.image_size=0", ["data.image_size is 0"]),
        ("name=a/b", ["'a/b'", "folder"]),
        ("name=..", ["'..'", "folder"]),
        # a monitor that no metric bears
        ("monitor=val/acuracy", ["'val/acuracy'", "Did you mean val/accuracy?"]),
        ("monitor=accuracy", ["'accuracy'", "Did you mean val/accuracy?"]),
        ("monitor=null", ["monitor is null", "text", "'val/loss'"]),
        ("data=digits monitor=val/mean_iou", ["'val/mean_iou'", "val/accuracy"]),
        ("metric.mean_iou=null", ["'val/mean_iou'", "val/accuracy"]),
        # what the run fills in, or cannot do without
        ("run.dir=here", ["run.dir=here", "filled in by the run"]),
        ("~model", ["~model", "model=..."]),
        ("~epochs", ["~epochs", "epochs=..."]),
        ("seed=???", ["seed", "issing"]),
        ("epochs=${nope}", ["epochs is '${nope}'", "no key nope"]),
        ("epochs=${nope:1}", ["epochs", "nope"]),
        # null, where a missing key would mean something else; a member that is no object; another monitor's mode
        ("data.shuffle=null", ["data.shuffle is null", "a boolean"]),
        ("model.batch_norm=null", ["model.batch_norm is null", "a boolean"]),
        ("data.batch_size=abc", ["data.batch_size is 'abc'", "a whole number"]),
        ("schedule.warmup_epochs=abc", ["schedule.warmup_epochs is 'abc'", "a number"]),
        ("+callback.early_stoping.patience=3", ["callback.early_stoping has no _target_", "early_stopping"]),
        ("+data.transforms.flp.p=0.5", ["data.transforms.flp has no _target_", "shift"]),
        ("data=digits monitor=val/loss", ["monitor=val/loss", "mode=min or mode=max"]),
        # no override, or a sweep without --multirun
        ("epochs", ["'epochs'", "give epochs=..."]),
        ("=5", ["'=5'", "key=value"]),
        ("epochs==5", ["'epochs==5'", "key=value"]),
        ("epochs=[1", ["'epochs=[1'", "key=value"]),
        ("--epochs", ["'--epochs'", "key=value"]),
        ("optimizer=adam,sgd", ["'optimizer=adam,sgd'", "--multirun"]),
        ("epochs=1,2", ["'epochs=1,2'", "--multirun"]),
        ("epochs=range(1,3)", ["'epochs=range(1,3)'", "--multirun"]),
    ],
)
def test_mistakes(command, named):
    with pytest.raises(ConfigError) as caught:
        compose(command.split())
    message = str(caught.value)
    assert len(message.splitlines()) <= 10 and "Traceback" not in message
    assert [text for text in named if text not in message] == [], message


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", {"name": "digit_scenes", "monitor": "val/mean_iou", "mode": "max"}),
        ("data=digits model=cnn", {"name": "digits", "monitor": "val/accuracy", "mode": "max", "trainer.threads": 1}),
        ("data=digits monitor=val/loss mode=min", {"monitor": "val/loss", "mode": "min", "name": "digits"}),
        ("monitor=val/loss mode=min data=digits", {"monitor": "val/loss", "mode": "min"}),
        ("data=digits name=mine trainer.threads=2", {"name": "mine", "trainer.threads": 2}),
        ("experiment=digits_fast", {"name": "digits", "epochs": 20, "model._target_": "src.models.cnn.cnn"}),
        ("experiment=digits_fast epochs=3", {"epochs": 3}),
        ("experiment=digits_fast model=unet", {"name": "digits", "model._target_": "src.models.unet.unet"}),
        ("experiment=digits_fast data=digit_scenes", {"name": "digit_scenes", "monitor": "val/mean_iou"}),
        (STOP + "callback.early_stopping.patience=2", {"callback.early_stopping.patience": 2}),
        ("optimizer.learning_rate=1", {"optimizer.learning_rate": 1}),
        ("optimizer=adam optimizer=adam", {"optimizer._target_": "keras.optimizers.Adam"}),
        ("callback.summaries=null ~callback.export", {"callback.summaries": None, "callback.export": None}),
        ("+model.extra=1", {"model.extra": 1}),
        ("max_seconds=0.5 trainer.clip_norm=1", {"max_seconds": 0.5, "trainer.clip_norm": 1}),
    ],
)
def test_what_is_typed_wins(command, expected):
    cfg = compose(command.split())
    assert {key: OmegaConf.select(cfg, key) for key in expected} == expected


@pytest.mark.parametrize("command", [["data=digits", "metric=segmentation"], ["metric=segmentation", "data=digits"]])
def test_a_metric_on_the_command_line_wins_over_the_data_options(command):
    cfg = compose(command)
    assert list(cfg.metric) == ["accuracy", "mean_iou"] and cfg.name == "digits"


def test_an_option_from_a_folder_of_the_users(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: src.models.mlp.mlp\nwidth: 3\n")
    command = ["model=mine", "model.width=4"]
    by_flag, by_key = compose(command, config_dir=str(tmp_path)), compose([*command, f"hydra.searchpath=[{tmp_path}]"])
    assert by_flag.model == by_key.model == {"_target_": "src.models.mlp.mlp", "width": 4}
    with pytest.raises(ConfigError, match=r"model=unte: model has no option.*Did you mean unet\?"):
        compose(["model=unte"], config_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "key", "origin"),
    [
        ([], "epochs", "conf/train.yaml"),
        ([], "name", "conf/data/digit_scenes.yaml"),
        ([], "data.transforms.shift.max_pixels", "conf/data/digit_scenes.yaml"),
        (["epochs=3"], "epochs", "epochs=3"),
        (["experiment=digits_fast"], "epochs", "conf/experiment/digits_fast.yaml"),
        (["experiment=digits_fast", "epochs=3"], "epochs", "epochs=3"),
        (["+callback.mine={patience: 3}"], "callback.mine.patience", "+callback.mine={patience: 3}"),
        (["model=cnn"], "model.filters", "conf/model/cnn.yaml"),
        ([], "nowhere.to.be.found", ""),
    ],
)
def test_where_a_value_comes_from(overrides, key, origin):
    composer = config._composer("train")
    parsed = [config.parse_override(text) for text in overrides]
    given = {override.key_or_group: override.input_line for override in composer._values(parsed)}
    assert composer._base(parsed).origins.with_overrides(given).origin(key) == origin


def test_a_default_is_that_of_the_option_which_has_the_key():
    origins = config._composer("train")._base([config.parse_override("experiment=digits_fast")]).origins
    assert origins.default(("epochs",)) == 15, "not the experiment's"
    assert origins.default(("data", "batch_size")) == 32, "of what it refers to"
    assert origins.default(("trainer", "threads")) == 1, "where the option leaves it open, of who says more"
    assert origins.default(("model", "num_classes")) is None, "the run fills it in"


def test_the_monitor_may_be_one_of_several_scores():
    full = ["metric=segmentation_full", "mode=max"]
    for monitor in ("val/mean_dice", "train/accuracy", "val/iou/three"):
        assert compose([*full, f"monitor={monitor}"]).monitor == monitor
    for monitor in ("val/scores", "val/iou", "iou/three", "val/recall/three"):
        with pytest.raises(ConfigError, match=r"is no metric of this run; it has .*val/mean_dice.*val/iou/<class>"):
            compose([*full, f"monitor={monitor}"])


@pytest.mark.parametrize(
    "words",
    ["--multirun seed=1 --config-dir=x", "seed=1 --multirun --config-dir x", "-m -cd x seed=1"],
)
def test_flags_stand_anywhere(words):
    arguments = parse_command(words.split())
    assert arguments.multirun and arguments.overrides == ["seed=1"] and arguments.config_dir.lstrip("=") == "x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--epochs 5", "there is no option --epochs; write epochs=5"),
        ("-epochs=5", "there is no option -epochs=5; write epochs=5"),
        ("seed=1 --lr", "there is no option --lr; write lr=..."),
        ("--cfg", "expected one argument"),
        ("--cfg work", "invalid choice: 'work'"),
        ("--config", "ambiguous option"),
        ("--multirn seed=0,1", "there is no option --multirn. Did you mean --multirun?"),
    ],
)
def test_flags_that_there_are_not(words, said, capsys):
    with pytest.raises(ConfigError) as refused:
        parse_command(words.split())
    assert said in str(refused.value) and capsys.readouterr().err == ""


def test_expand():
    assert expand(["optimizer=adam,sgd", "seed=range(2)", "epochs=1"]) == [
        ["optimizer=adam", "seed=0", "epochs=1"],
        ["optimizer=adam", "seed=1", "epochs=1"],
        ["optimizer=sgd", "seed=0", "epochs=1"],
        ["optimizer=sgd", "seed=1", "epochs=1"],
    ]


@pytest.mark.parametrize("twice", [["seed=0,1", "seed=2,3"], ["optimizer=adam,sgd", "optimizer=adam"]])
def test_a_sweep_has_each_key_once(twice):
    for judge in (expand, check_sweep):
        with pytest.raises(ConfigError, match=f"{twice[0]} and {twice[1]}: .* is given twice"):
            judge(twice)
    assert expand(["~metric.accuracy", "+metric.accuracy=1", "seed=0", "seed=0"])


def test_the_jobs_of_a_sweep_keep_what_was_typed():
    jobs = expand(["model.filters=${batch_size}", "seed=0,1", "schedule=glob(co*)"])
    assert len(jobs) == 4 and all(job[0] == "model.filters=${batch_size}" for job in jobs)
    assert [job[2] for job in jobs] == ["schedule=constant", "schedule=cosine"] * 2
    with pytest.raises(ConfigError, match=r"interval\(0,3\) has no end of values.*optuna"):
        expand(["seed=interval(0,3)"])


@pytest.mark.parametrize("text", ["hydra.launcher.n_jobs=1,2", "hydra/launcher=local,basic"])
def test_a_setting_of_the_whole_sweep_has_one_value(text):
    with pytest.raises(ConfigError, match="is of the whole sweep"):
        check_sweep(["seed=0,1", text])


@pytest.mark.parametrize(
    "text",
    [
        "strategy=multi_worker",
        "strategy=multi_worker hydra/launcher=slurm",
        "hydra/launcher=slurm hydra.launcher.workers=2",
        "strategy=mirrored hydra/launcher=slurm hydra.launcher.workers=2",
    ],
)
def test_a_sweep_of_runs_of_several_processes_needs_who_starts_them(text):
    with pytest.raises(ConfigError, match=r"hydra/launcher=slurm hydra\.launcher\.workers=4"):
        check_sweep(["seed=0,1", *text.split()])
    check_sweep(["seed=0,1", "strategy=multi_worker", "hydra/launcher=slurm", "hydra.launcher.workers=2"])


def test_a_folder_of_configs_may_bring_groups_and_a_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"mine/my/one.yaml": "a: 1\n", "mine/alt.yaml": "defaults: [train, _self_]\n\nepochs: 7\n"}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for folder in ("mine", str(tmp_path / "mine")):
        assert compose(["+my=one", "epochs=${my.a}"], config_dir=folder).epochs == 1
        assert compose([], config_dir=folder, config_name="alt").epochs == 7


VALUES = {
    "seed": ["0", "7", "${batch_size}", "null"],
    "epochs": ["3", "1e3", "true", "'3'", "???"],
    "optimizer.learning_rate": ["0.1", "1e-05", "${oc.env:HOME,1}", "[0.1,0.2]"],
    "log_every_steps": ["'a ${seed} b'", "'${nope}'", "''", "inf"],
    "data.image_size": ["[48,32]", "[]", "[[1],{a: 1}]"],
    "data.class_names": ["[a,'b c',null,true]", "['${name}']", "{a: 1}"],
    "model.kernel_size": ["'\\\\${seed}'", "'it''s'", "a\\\\,b"],
    "+model.new": ["null", "[1,{a: b}]", "'quoted, text'", "${seed}"],
    "++trainer.clip_norm": ["1.5"],
    "trainer": ["{threads: 2}"],
    "~callback.early_stopping": [],
    "~data.transforms.noise": [],
    "~monitor": ["val/loss"],
    "data.transforms": ["{}"],
    "data.transforms.shift": ["null", "5", "{max_pixels: 4}"],
    "hydra.job.chdir": ["true"],
    "hydra.sweep.subdir": ["${hydra.job.override_dirname}", "x-${seed}"],
    "hydra.launcher.n_jobs": ["3"],
    "name": ["a-b", "'a.b'", "${oc.select:mode}"],
}
OPTIONS = {
    "model": ["cnn", "unet"],
    "optimizer": ["adam", "sgd", "rmsprop"],
    "data": ["digits", "digit_scenes"],
    "callback": ["default", "early_stopping"],
    "hydra/launcher": ["local", "basic", "ray", "slurm"],
    "experiment": ["digits_fast"],
    "+optimizer@optimizer.second": ["sgd"],
}


@st.composite
def command(draw):
    """Overrides in any order, some of the same option, which is what the composer keeps."""
    keys = draw(st.lists(st.sampled_from([*VALUES, *OPTIONS]), unique=True, max_size=8))
    choices = {**VALUES, **OPTIONS}
    return [f"{key}={draw(st.sampled_from(choices[key]))}" if choices[key] else key for key in keys]


def outcome(compute):
    """What a call gives, or the error that it raises."""
    try:
        return compute()
    except (ConfigError, OmegaConfBaseException) as error:
        return type(error).__name__, str(error)


@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
@given(overrides=command())
@example(overrides=["seed=7", "~log_every_steps"])
@example(overrides=["++trainer.clip_norm=1.5", "data.transforms.shift={max_pixels: 4}", "name='${mode}'"])
def test_composing_once_for_a_set_of_options_gives_what_hydra_gives(overrides):
    composer = config._composer("train")
    try:
        with initialize_config_dir(str(config.CONFIG_DIR), version_base="1.3"):
            expected = hydra_compose("train", overrides, return_hydra_config=True)
    except HydraException:
        assume(False)
    parsed = [config.parse_override(text) for text in overrides]
    ours = composer.compose_unchecked(parsed)
    for cfg in (ours, expected):
        with open_dict(cfg):
            del cfg.hydra.job.name  # `app` where the call is a test's own
    assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(expected)
    written = {**plain_values(expected), "run": dict.fromkeys(expected.run)}
    del written["hydra"]
    plain = composer.plain(parsed)
    assert repr({key: value for key, value in plain.items() if key != "hydra"}) == repr(written)
    resolved = outcome(lambda: OmegaConf.to_container(OmegaConf.create(written), resolve=True))
    assert repr(outcome(lambda: resolved_values(plain))) == repr(resolved)
    assert repr(outcome(lambda: config_hash(ours))) == repr(outcome(lambda: config_hash(expected)))


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(overrides=command().filter(lambda texts: not {"~monitor"} & set(texts)), data=st.data())
def test_what_is_wrong_is_said_alike_whether_or_not_omegaconf_is_asked(overrides, data):
    """Only values that a config has already are changed; the checks see the same, and say the same."""
    base = config._composer("train")._base([])
    keys = data.draw(st.lists(st.sampled_from(sorted(base.values)), unique=True, max_size=2))
    values = st.sampled_from(["0", "-1", "2.5", "a", "null", "true", "[1]", "1e400", "${seed}"])
    texts = [f"{key}={data.draw(values)}" for key in keys if key.partition(".")[0] not in HIDDEN]
    texts += [text for text in overrides if text.partition("=")[0] in VALUES and text.partition("=")[0] not in keys]
    texts = texts[:3]
    quick = outcome(lambda: compose_check(texts, config_name=None, is_known=lambda cfg: False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "is_assignment", lambda override, there: False)
        slow = outcome(lambda: compose_check(texts, config_name=None, is_known=lambda cfg: False))
    if isinstance(slow, config.Composed):
        assert repr(quick.resolved) == repr(slow.resolved)
    else:
        assert quick == slow

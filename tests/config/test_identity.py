"""The id is a hash of what a result depends on, and of nothing else."""

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given, settings as tried, strategies as st
from omegaconf import OmegaConf, open_dict

from src.config.compose import compose
from src.config.identity import (
    ID_DIGITS,
    LABEL_LENGTH,
    NOT_IDENTITY,
    NOT_IDENTITY_OF_A_DATASET,
    config_hash,
    derived,
    followed,
    identity_config,
    label,
    run_id,
    settings,
)

OVERRIDES = ["optimizer=sgd", "model.filters=8", "epochs=3", "seed=7"]


def leaves(value, path=()):
    if not isinstance(value, dict):
        return [path]
    return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]


@pytest.fixture(scope="module")
def cfg():
    return compose([])


def changed(cfg, key: str):
    """The config with another value at `key`; a new leaf where there is none."""
    copy, old = cfg.copy(), OmegaConf.select(cfg, key)
    with open_dict(copy):
        OmegaConf.update(copy, key, f"other-{old}" if not isinstance(old, bool) else not old, force_add=True)
    return copy


def all_keys() -> list[str]:
    plain = OmegaConf.to_container(compose([]), resolve=False)
    return [".".join(path) for path in leaves(plain) if path[0] not in ("hydra", "run")]


def is_matched(key: str) -> bool:
    parts = key.split(".")
    heads = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(head, pattern) for head in heads for pattern in NOT_IDENTITY + NOT_IDENTITY_OF_A_DATASET)


def test_every_leaf_changes_the_id_unless_it_is_in_the_table(cfg):
    keys = all_keys()
    assert len(keys) > 50
    wrong = [key for key in keys if (config_hash(changed(cfg, key)) == config_hash(cfg)) != is_matched(key)]
    assert not wrong


@pytest.mark.parametrize("pattern", NOT_IDENTITY)
def test_what_cannot_change_a_result_leaves_the_id_alone(cfg, pattern):
    same = config_hash(cfg)
    if pattern == "run":
        filled = cfg.copy()
        filled.run = {**cfg.run, "dir": "somewhere", "num_classes": 10, "total_steps": 5}
        assert config_hash(filled) == same
        return
    key = {"hydra": "hydra.verbose", "callback.progress": "callback.progress.every_steps"}.get(pattern, pattern)
    for name in ("summaries", "checkpoint") if "*" in key else ("",):
        assert config_hash(changed(cfg, key.replace("*", name))) == same


def test_the_order_of_overrides_does_not_matter():
    forward, backward = compose(OVERRIDES), compose(OVERRIDES[::-1])
    assert config_hash(forward) == config_hash(backward) and label(forward) == label(backward)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("trainer.clip_norm=1", "trainer.clip_norm=1.0", True),
        ("optimizer.learning_rate=1", "optimizer.learning_rate=1.0", True),
        ("optimizer.learning_rate=0.001", "optimizer.learning_rate=1e-3", True),
        ("+model.new=null", "epochs=15", True),
        ("+model.new=false", "epochs=15", False),
        ("+model.new=0", "epochs=15", False),
        ("data.transforms.noise=null", "~data.transforms.noise", True),
        ("name=mine", "name=yours", True),
        ("seed=1", "seed=2", False),
    ],
)
def test_canonical_form(one, other, same):
    assert (config_hash(compose([one])) == config_hash(compose([other]))) == same


def test_the_order_of_transforms_matters_and_of_other_keys_does_not(cfg):
    turned = cfg.copy()
    turned.data.transforms = dict(reversed(list(cfg.data.transforms.items())))
    assert config_hash(turned) != config_hash(cfg)
    turned = cfg.copy()
    turned.model = dict(reversed(list(cfg.model.items())))
    assert config_hash(turned) == config_hash(cfg)


def test_identity_holds_no_interpolations_and_no_paths(cfg):
    text = repr(identity_config(cfg))
    assert "${" not in text and "hydra" not in text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "unet-adam-lr0.003-cosine-e15-b32-s0"),
        (["data=digits", "model=cnn", "optimizer=sgd", "schedule=constant"], "cnn-sgd-lr0.05-constant-e15-b32-s0"),
    ],
)
def test_label(overrides, expected):
    assert label(compose(overrides)) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a.b.Strange/Näme x", "strange_n_me_x-adam-lr0.003-cosine-e15-b32-s0"),
        (f"my.{'long' * 30}", ("long" * 30)[:LABEL_LENGTH]),
        ("my...-", "adam-lr0.003-cosine-e15-b32-s0"),
    ],
)
def test_a_label_is_a_safe_name_whatever_the_config_says(target, expected):
    cfg = compose([])
    cfg.model["_target_"] = target
    text = label(cfg)
    assert text == expected and len(text) <= LABEL_LENGTH and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", text)


def test_the_label_comes_from_the_config_not_from_the_overrides():
    assert label(compose(["epochs=15"])) == label(compose([]))


def test_single_run_and_sweep_job_lie_in_the_same_directory():
    cfg = compose(OVERRIDES)
    assert re.fullmatch(rf"outputs/digit_scenes/{label(cfg)}-[0-9a-f]{{{ID_DIGITS}}}", cfg.hydra.run.dir)
    assert cfg.hydra.run.dir == f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}"
    assert cfg.hydra.run.dir.endswith(f"-{run_id(cfg)}")


def test_ids_stay():
    """Pinned: where this changes, finished runs are no longer found. A new key with a null default changes nothing."""
    assert run_id(compose(["data=digits", "model=cnn"])) == "7ce799e4"
    assert run_id(compose(["data=digits", "model=cnn", "+model.new=null", "+trainer.more={}"])) == "7ce799e4"


def test_settings_are_what_was_chosen_and_not_what_follows_from_it():
    """For tables: each key once, where it was said; `data.batch_size` follows from `batch_size` until it is given."""
    found = settings(compose(["optimizer.learning_rate=0.01", "callback=early_stopping"]))
    assert found["optimizer.learning_rate"] == 0.01
    assert found["callback.early_stopping.patience"] == 5
    assert found["data.transforms.shift.max_pixels"] == 2
    assert {"epochs", "batch_size", "seed", "monitor"} <= set(found)
    assert not {"name", "data.batch_size", "data.seed", "log_every_steps", "callback.summaries.directory"} & set(found)
    assert not any("None" in str(value) for value in found.values())
    follows = derived(
        compose(["+data.a='${run.dir}/a'", "+data.b='${data.a}'", "+data.c=['${data.b}']", "+data.d='${seed}'"])
    )
    assert follows["data.d"] == 0 and {"data.batch_size", "data.seed"} <= set(follows)
    assert not any(key in ("data.a", "data.b", "data.c") or "None" in str(value) for key, value in follows.items())
    assert settings(compose(["data.batch_size=8"]))["data.batch_size"] == 8


# What stands in a value, and what OmegaConf's grammar has words for.
PIECES = (
    *("${a}", "${b.c}", "${b.d}", "${b.e}", "${b.e.1}", "${b.e[1]}", "${b.true}", "${true}", "${null}", "${nan}"),
    *("${b.n}", "${b.m}", "${b.s}{a}", "${b.k-1}", "${f}", "${g}", "${h}", "${h.i.j}", "${L}", "${1}", "${q}"),
    *("${q.c}", "${nope}", "${b.nope}", "${.a}", "${..a}", "${é}", "$", "{", "}", "\\", "'", '"', " ", "${ a }"),
    *("${a:}", "${oc.select:a}", "${w}", "${b[c]}", "${${b.s}}", "${", "${b.${b.s}}", ":", "\t", "\\${a}", "${z}"),
)
WRITTEN = {
    **{"a": 1, "true": 2, "null": 5, "nan": 6, "f": 1e-7, "g": True, "L": ["${b}"], 1: 7, "q": "${b}", "é": 3},
    "b": {"c": "${a}", "d": "x${b.c}y", "e": [1, "${a}"], "true": 3, "n": None, "m": "???", "s": "$", "k-1": 4},
    **{"h": {"i": {"j": "${b.e}"}}, "w": "a${h.i}"},
}


@tried(deadline=None, max_examples=200)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3))
@example(pieces=["${b.d}", "${a}"])
def test_what_values_refer_to_is_what_omegaconf_says(pieces):
    written = {**WRITTEN, "z": "".join(pieces)}
    try:
        ours = followed(written["z"], written)
    except (LookupError, RecursionError):
        return  # OmegaConf is asked
    value = OmegaConf.create(written).z
    assert repr(ours) == repr(OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)


def test_most_values_are_known_without_omegaconf(cfg):
    """Otherwise the property above would hold for nothing."""
    plain = {key: value for key, value in OmegaConf.to_container(cfg, resolve=False).items() if key != "hydra"}
    assert followed(plain, plain)["data"]["batch_size"] == cfg.batch_size

"""What hydra/launcher=ray refuses before it looks for a cluster; tests/cluster has what it does on one."""

from __future__ import annotations

import sys

import pytest

from src.config.checks import ConfigError
from src.sweeps.ray import RayOptions, RayRunner
from tests.support.helpers import DIGITS, train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "ray://head:10001"}, "hydra.launcher.address is 'ray://head:10001'; .* a machine of the cluster"),
        ({"address": None}, "address is None"),
        ({"resources": {"num_cpu": 1}}, "keys num_cpus, num_gpus, memory, resources"),
        ({"resources": 2}, "resources is 2"),
        ({"resources": {"num_gpus": -1}}, "resources: GPU is -1; it must be a number at least 0"),
        ({"resources": {"num_cpus": "two"}}, "CPU is 'two'"),
        ({"resources": {"resources": {"disk": True}}}, "disk is True"),
        ({"resources": {"resources": 3}}, "resources.resources is 3"),
        ({"n_jobs": 0}, "n_jobs is 0"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        RayOptions(**options).check()


@pytest.mark.parametrize(
    ("resources", "fit"),
    [
        ({"num_cpus": 1}, 6),
        ({"num_cpus": 3}, 1),
        ({"num_cpus": 1, "num_gpus": 0.1}, 4),
        ({"num_cpus": 0, "num_gpus": 0.3}, 3),
        ({"num_cpus": 1, "resources": {"disk": 1}}, 2),
        ({"num_cpus": 8}, 1),  # one waits for a node that has them
        ({}, 2),
    ],
)
def test_as_many_jobs_as_the_nodes_have_room_for(monkeypatch, capsys, resources, fit):
    nodes = {"a": {"CPU": 4.0, "GPU": 1.0}, "b": {"CPU": 2.0, "disk": 3.0}}
    monkeypatch.setattr(RayRunner, "_nodes", nodes)
    options = RayOptions(resources=resources)
    options.check()
    assert RayRunner(None, options).n_jobs == fit
    assert ("no node has {'CPU': 8} now" in capsys.readouterr().err) == (resources == {"num_cpus": 8})
    assert RayRunner(None, RayOptions(n_jobs=9)).n_jobs == 9


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("hydra.launcher.resources={num_cpu: 1}", "hydra.launcher.resources has num_cpus, num_gpus, memory, resources"),
        ("hydra.launcher.resources={num_cpus: 1, num_gpus: 0.5, resources: {x: a}}", "resources: x is 'a'"),
        ("hydra.launcher.n_job=2", "Did you mean hydra.launcher.n_jobs?"),
        ("hydra.launcher.start=fork", "hydra.launcher.start"),
    ],
)
def test_what_is_typed_wrong_is_answered_at_once(tmp_path, typed, said):
    result = train("--multirun", "hydra/launcher=ray", *DIGITS, "seed=0,1", typed, cwd=tmp_path)
    assert result.returncode == 2 and said in result.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, n_jobs):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    runner = RayRunner(None, RayOptions(n_jobs=n_jobs))
    with pytest.raises(ConfigError, match=r"pip install -c constraints.txt -e '\.\[ray\]'"):
        runner.make_pool(folder=tmp_path / "outputs", slots=runner.n_jobs)
    assert list(tmp_path.iterdir()) == []

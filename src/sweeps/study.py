"""A study: the trials of a search, in a journal file that outlives the command and opens in optuna-dashboard.

study = Study(path, space=space, options=SearchOptions(), mode="max")
trial = study.ask()
study.report(trial, [(1, 0.7), (2, 0.8)])       # epochs and values; True: the pruner would end it
study.tell(trial, "complete", 0.8)
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler, QMCSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from src.common.files import fsync_folders
from src.common.ranges import Check, Count, Positive, checks_of
from src.config import targets
from src.config.checks import ConfigError
from src.config.identity import ID_DIGITS
from src.sweeps.space import Space

Outcome = Literal["complete", "pruned", "failed"]
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}

# Set on a trial before its run is signalled, so that a command that continues the study knows that it ended.
PRUNED_AT = "pruned_at_epoch"
LOCK_SECONDS = 3  # an optuna's lock this old, of one append, is a dead process's

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _names(module: ModuleType) -> dict[str, str]:
    """Optuna's samplers or pruners by short names: `random` for `optuna.samplers.RandomSampler`."""
    kind = module.__name__.rpartition(".")[2].removesuffix("s").title()
    classes = [name for name in module.__all__ if name.endswith(kind) and not name.startswith("Base")]
    return {name.removesuffix(kind).lower(): f"{module.__name__}.{name}" for name in classes}


NAMES = {"sampler": _names(optuna.samplers), "pruner": _names(optuna.pruners)}


@dataclass(frozen=True)
class SearchOptions:
    """Of hydra/sweeper=optuna; see there."""

    n_trials: Count = 20
    timeout_seconds: Positive | None = None
    sampler: Any = field(default_factory=lambda: {"_target_": "optuna.samplers.TPESampler", "seed": 0})
    pruner: Any = field(default_factory=lambda: {"_target_": "optuna.pruners.NopPruner"})
    params: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, names in NAMES.items():
            value = getattr(self, what)
            if isinstance(value, str) and (target := names.get(value.replace("_", "").lower())):
                seeded = "seed" in inspect.signature(_resolve(what, {"_target_": target}, object)).parameters
                object.__setattr__(self, what, {"_target_": target, **({"seed": 0} if seeded else {})})

    def check(self) -> None:
        """Raise ConfigError where a value is none of those allowed."""
        for name, check in (checks_of(SearchOptions) | OPTION_CHECKS).items():
            if not check.allows(value := getattr(self, name)):
                raise ConfigError(check.refusal(f"hydra.sweeper.{name}", value))


OPTION_CHECKS = {
    **{
        what: Check(
            lambda x: isinstance(x, dict) and isinstance(x.get("_target_"), str),
            f"one of {', '.join(names)}, or a mapping with a _target_",
            tuple(names),
        )
        for what, names in NAMES.items()
    },
    "params": Check(lambda x: isinstance(x, dict), "a mapping of keys to what they may be"),
}


class Method:
    """How a space is searched: makes samplers and the pruner.

    Raises:
        ConfigError: optuna cannot make them, or they cannot search this space.
    """

    def __init__(self, options: SearchOptions, space: Space) -> None:
        self._config = dict(options.sampler)
        sampler = _resolve("sampler", self._config, BaseSampler)
        grid = space.grid
        if issubclass(sampler, GridSampler):
            given = self._config.setdefault("search_space", grid)
            if given is None:
                endless = ", ".join(d.given for d in space.dimensions if d.values is None)
                raise ConfigError(f"hydra.sweeper.sampler: a grid has no end with {endless}; give range or choice")
            if set(given) != set(space.distributions):
                raise ConfigError(f"hydra.sweeper.sampler.search_space must have {', '.join(space.distributions)}")
            grid = given
        ends = issubclass(sampler, GridSampler | BruteForceSampler) and grid is not None
        self.n_trials = min(options.n_trials, math.prod(map(len, grid.values()))) if ends and grid else options.n_trials
        # The seed of these says which points there are; that of the others, which is next.
        self._seed = None if issubclass(sampler, GridSampler | QMCSampler) else self._config.get("seed")
        self._only = _build("sampler", self._config)
        _resolve("pruner", options.pruner, BasePruner)
        self.pruner: BasePruner = _build("pruner", options.pruner)

    @property
    def prunes(self) -> bool:
        return not isinstance(self.pruner, NopPruner)

    def sampler(self, trial_number: int) -> BaseSampler:
        """For one trial: with a seed of its own, so that a continued study does not begin again."""
        if self._seed is None:
            return self._only
        seed = int(np.random.SeedSequence([self._seed, trial_number]).generate_state(1)[0])
        return _build("sampler", {**self._config, "seed": seed})


class Study:
    """The trials in a journal file, which one process at a time may write.

    Args:
        path: of the journal; made if it is missing.
        mode: `min` or `max`.
    """

    def __init__(self, path: Path, *, space: Space, method: Method, mode: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _mend(path)
        path.touch()
        fsync_folders(path.parent)
        self.path, self._space, self._method = path, space, method
        self.exhausted = False
        self._reported: dict[int, set[int]] = {}
        with _readable(path):
            self._study = optuna.create_study(
                study_name=path.stem,
                storage=_storage(path),
                direction="maximize" if mode == "max" else "minimize",
                pruner=method.pruner,
                load_if_exists=True,
            )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All that have been asked for, in order."""
        return asked_trials(self._study)

    @property
    def best(self) -> FrozenTrial | None:
        complete = any(trial.state == TrialState.COMPLETE for trial in self.trials)
        return self._study.best_trial if complete else None

    def ask(self) -> Trial:
        """The next trial."""
        self._study.sampler = self._method.sampler(len(self.trials))
        return self._suggest(self._study.ask())

    def resume(self, unfinished: FrozenTrial) -> Trial:
        """A trial that a process which has died was running."""
        self._study.sampler = self._method.sampler(unfinished.number)
        self._reported[unfinished.number] = set(unfinished.intermediate_values)
        return self._suggest(Trial(self._study, unfinished._trial_id))

    def _suggest(self, trial: Trial) -> Trial:
        for key, distribution in self._space.distributions.items():
            match distribution:
                case CategoricalDistribution(choices=choices):
                    trial.suggest_categorical(key, choices)
                case IntDistribution(low=low, high=high, step=step, log=log):
                    trial.suggest_int(key, low, high, step=step, log=log)
                case FloatDistribution(low=low, high=high, step=step, log=log):
                    trial.suggest_float(key, low, high, step=step, log=log)
        return trial

    def report(self, trial: Trial, epochs: Iterable[tuple[int, float]]) -> bool:
        """Tell the pruner of the epochs that it does not know yet; returns whether it would end the trial."""
        known, ends = self._reported.setdefault(trial.number, set()), False
        for epoch, value in epochs:
            if epoch not in known:
                known.add(epoch)
                trial.report(value, epoch)
                ends |= trial.should_prune()
        return ends

    def tell(self, trial: Trial, outcome: Outcome, value: float | None = None) -> None:
        """What became of a trial; `value` of a complete one."""
        try:
            self._study.tell(trial, value, STATES[outcome])
        except RuntimeError:  # a sampler without further points has called study.stop(), which is for optimize()
            if not self._study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                raise
            self.exhausted = True


def study_id(space: Space, options: SearchOptions, identity: dict[str, Any]) -> str:
    """8 hex digits of all that makes trials of one study comparable.

    Args:
        identity: of the run of all first values; see `identity_config`.
    """
    described = {
        "space": {key: distribution_to_json(of) for key, of in space.distributions.items()},
        "sampler": options.sampler,
        "pruner": options.pruner,
        "identity": identity,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:ID_DIGITS]


def read_trials(path: Path) -> list[FrozenTrial]:
    """All trials in a journal, without writing to it; none where there is none."""
    if not path.exists() or not path.read_bytes().count(b"\n"):
        return []
    try:
        with _readable(path):
            return asked_trials(optuna.load_study(study_name=path.stem, storage=_storage(path)))
    except KeyError:  # made, and killed at once
        return []


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"study {path} is damaged ({error}); move it away, and the same command begins a new one, "
            "which reuses the runs that are completed"
        ) from error


def asked_trials(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]


def _storage(path: Path) -> JournalStorage:
    absolute = str(path.absolute())  # optuna's lock is a link, which a relative path would leave dangling
    return JournalStorage(JournalFileBackend(absolute, JournalFileSymlinkLock(absolute, grace_period=LOCK_SECONDS)))


def _mend(path: Path) -> None:
    """Cut off what a killed process or a power cut has not finished; a line after it would make both unreadable."""
    content = whole = path.read_bytes() if path.exists() else b""
    while whole and not _is_line(whole[whole[:-1].rfind(b"\n") + 1 :]):
        whole = whole[: whole[:-1].rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))


def _is_line(text: bytes) -> bool:
    try:
        return text.endswith(b"\n") and isinstance(json.loads(text.decode()), dict)
    except ValueError:
        return False


def _resolve(what: str, config: dict[str, Any], kind: type) -> type:
    key = f"hydra.sweeper.{what}"
    try:
        found: Any = targets.resolve(config["_target_"], group="hydra.sweeper", key=key)
    except targets.TargetError as error:
        raise ConfigError(str(error)) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(f"hydra.sweeper.{what}._target_ is {config['_target_']}, which is no optuna {what}")
    return found


def _build(what: str, config: dict[str, Any]) -> Any:
    try:
        return targets.build(config, key=f"hydra.sweeper.{what}")
    except targets.TargetError as error:
        raise ConfigError(str(error)) from error

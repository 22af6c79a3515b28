"""Shows a run in Weights & Biases or MLflow: its settings, the metrics of each epoch, its picture.

    Tracker(record="run", to="mlflow", project="digits")

Where the service is, and whose account, says the environment alone (MLFLOW_TRACKING_URI, WANDB_API_KEY), since a config
may come from a stranger.
Epochs are read from history.jsonl, and what the service has already is left out. So a run that is killed and continued
has each of them once, and one that is trained anew (`rerun=true`) is another one there.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from src.callbacks.hparams import flat_settings
from src.common.extras import install_command
from src.common.files import delete
from src.common.ranges import enforce_ranges
from src.training.callback import Callback
from src.training.state import TrainState

log = logging.getLogger(__name__)

PACKAGES = {"wandb": "wandb", "wandb_offline": "wandb", "mlflow": "mlflow"}  # the extras have the same names
SERVER = "MLFLOW_TRACKING_URI"
PICTURE = "predictions.png"
MOST_PARAMS, LONGEST_PARAM = 100, 6000  # that MLflow takes, at once and of one

Values = Mapping[str, float]


@enforce_ranges
class Tracker(Callback):
    """Send each epoch as it ends, at the latest when training ends or is interrupted.

    What cannot be sent ends training; with `may_fail=[tracker]` it is a warning.

    Args:
        record: the run's directory.
        to: the service; None sends nothing. `wandb_offline` writes what `wandb sync` sends later.
        project: of W&B, or MLflow's experiment.

    Raises:
        ValueError: the service's package is missing, or MLFLOW_TRACKING_URI is.
    """

    def __init__(
        self,
        *,
        record: str,
        to: Literal["wandb", "wandb_offline", "mlflow"] | None = None,
        project: str = "runs",
    ) -> None:
        if to and not importlib.util.find_spec(PACKAGES[to]):
            extra = PACKAGES[to]
            raise ValueError(f"to={to} needs the package {extra}, which is missing: {install_command(extra)}")
        if to == "mlflow" and not os.environ.get(SERVER):
            raise ValueError(f"to=mlflow needs the environment variable {SERVER}, as http://localhost:5000")
        self._directory, self._to, self._project = Path(record), to, project
        self._service: _Wandb | _MLflow | None = None
        self._sent, self._status = 0, "FAILED"

    def on_train_begin(self, state: TrainState) -> None:
        if self._to:
            record = json.loads((self._directory / "run.json").read_text())
            of_service = _MLflow if self._to == "mlflow" else _Wandb
            self._service = of_service(self._directory, record, to=self._to, project=self._project)
            self._sent, self._status = 0, "FAILED"
            log.info("%s: %s", self._to, self._service.link)

    def on_log(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._service and state.epoch > self._sent:  # whose line is there since the last call
            self._send()

    def on_interrupt(self, state: TrainState, reason: str) -> None:
        self._status = "KILLED"

    def on_train_end(self, state: TrainState) -> None:
        self._status = "FINISHED"

    def close(self) -> None:
        service, picture = self._service, self._directory / PICTURE
        if service:
            self._send()
            self._service = None
            service.finish(self._status, picture if picture.is_file() else None)

    def _send(self) -> None:
        history, lines = self._directory / "history.jsonl", []
        for text in history.read_text().splitlines() if history.exists() else ():
            with suppress(ValueError):  # half written, by a kill
                lines.append(json.loads(text))
        for line in lines:
            epoch = line.pop("epoch")
            if epoch > self._sent and self._service:
                self._service.send(epoch, {name: value for name, value in line.items() if value is not None})
                self._sent = epoch


class _Wandb:
    """Offline, what is written is written anew by each start: so nothing is twice in it."""

    def __init__(self, directory: Path, record: dict[str, Any], *, to: str, project: str) -> None:
        import wandb

        offline, run_id = to == "wandb_offline", f"{record['id']}-{re.sub('[^0-9]', '', record['started'])}"
        for earlier in directory.glob(f"wandb/offline-run-*-{run_id}") if offline else ():
            delete(earlier)
        self._picture = wandb.Image
        self._run = wandb.init(
            project=project,
            id=run_id,
            name=directory.name,
            dir=directory,
            config=flat_settings(record["choices"], record["config"]) | {"directory": str(directory)},
            mode="offline" if offline else "online",
            resume=None if offline else "allow",
            settings=wandb.Settings(console="off", quiet=True),  # train.log has what is printed
        )
        self.link = f"wandb sync {Path(self._run.dir).parent}" if offline else self._run.url
        self._first = self._run.step  # after what the server has

    def send(self, epoch: int, values: Values) -> None:
        if epoch >= self._first:
            self._run.log({**values, "epoch": epoch}, step=epoch)

    def finish(self, status: str, picture: Path | None) -> None:
        if picture and status == "FINISHED":
            self._run.log({picture.stem: self._picture(str(picture))})
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)


class _MLflow:
    def __init__(self, directory: Path, record: dict[str, Any], *, to: str, project: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        client = MlflowClient()
        self._client, self._metric = client, Metric
        tags = {key: record[key] for key in ("id", "started")} | {"directory": str(directory)}
        with suppress(MlflowException):  # it is there, perhaps since just now
            client.create_experiment(project)
        place = client.get_experiment_by_name(project).experiment_id
        found = client.search_runs([place], " and ".join(f"tags.{key} = '{tags[key]}'" for key in ("id", "started")))
        run = found[0] if found else client.create_run(place, run_name=directory.name, tags=tags)
        self._id = run.info.run_id
        client.update_run(self._id, status="RUNNING")
        settings = flat_settings(record["choices"], record["config"])
        new = settings.keys() - run.data.params.keys()
        params = [Param(key, str(settings[key])[:LONGEST_PARAM]) for key in sorted(new)]
        for first in range(0, len(params), MOST_PARAMS):
            client.log_batch(self._id, params=params[first : first + MOST_PARAMS])
        known = {name: client.get_metric_history(self._id, name) for name in run.data.metrics}
        self._known = {(name, point.step) for name, points in known.items() for point in points}
        self.link = f"{client.tracking_uri}/#/experiments/{place}/runs/{self._id}"

    def send(self, epoch: int, values: Values) -> None:
        now = int(time.time() * 1000)
        new = {name: value for name, value in values.items() if (name, epoch) not in self._known}
        self._client.log_batch(self._id, [self._metric(name, value, now, epoch) for name, value in new.items()])

    def finish(self, status: str, picture: Path | None) -> None:
        if picture and status == "FINISHED":
            self._client.log_artifact(self._id, str(picture))
        self._client.set_terminated(self._id, status)

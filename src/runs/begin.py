"""What is written of a run before it computes anything: its record, and what no commit has of its code.

begin(run, record, before, prints)          # run.json says "running"
keep_code(run, record, epoch=0)             # code/ has what is not committed
"""

from __future__ import annotations

import logging
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.common import files
from src.common.machine import this_process
from src.config.checks import plain_values
from src.config.compose import CONFIG_NAME, search_path
from src.config.identity import derived, settings
from src.runs.environment import environment, environment_changes
from src.runs.external_values import outside_values
from src.runs.record import Record
from src.runs.record_schema import RecordValues
from src.runs.run import Run
from src.runs.sources import computing_files, find_sources

log = logging.getLogger(__name__)


def begin(run: Run, record: Record, before: RecordValues, prints: dict[str, Any]) -> None:
    """Write the record of a run that begins, or goes on.

    Args:
        before: what the record said until now, EMPTY where there was none.
        prints: fingerprints of the code and data that this process computes with.
    """
    cfg, here = run.cfg, environment()
    # A branch goes on from what its parent's environment computed.
    branches = cfg.parent.config_hash and not before["config_hash"]
    begun = (branches and Record(run.branches_from).read()) or before
    for left in filter(Path.is_file, run.directory.glob(".tmp-*")):  # by a kill or a power cut
        files.delete(left)
    settings_folder = run.directory / ".hydra"  # which has just been written anew
    for path in (*settings_folder.glob("*"), settings_folder) if settings_folder.is_dir() else ():
        files.fsync(path)
    changed = environment_changes(begun["environment"], here)
    if changed:
        log.warning("continued in another environment, so last bits may differ: %s", ", ".join(changed))
    when = f"(after epoch {before['epoch'] if before['config_hash'] else cfg.parent.epoch or 0})"
    record.update(
        id=run.id,
        name=cfg.name,
        status="running",
        monitor=cfg.monitor,
        mode=cfg.mode,
        best=before["best"],
        metrics=before["metrics"],
        epoch=before["epoch"],
        step=before["step"],
        epochs=cfg.epochs,
        parameters=before["parameters"],
        seed=cfg.seed,
        started=before["started"] or now(),
        finished=None,
        seconds=before["seconds"],
        overrides=run.overrides,
        choices=run.choices,
        config=settings(cfg),
        resolved=outside_values(cfg),
        derived=derived(cfg),
        flags=_flags(run),
        config_hash=run.config_hash,
        fingerprints=before["fingerprints"] or prints,  # until this code has something to go on from
        process=this_process(),
        parent=dict(cfg.parent) if cfg.parent.config_hash else None,
        error=None,
        environment={
            **here,
            "threads": before["environment"]["threads"],
            "changes": [*before["environment"]["changes"], *(f"{change} {when}" for change in changed)],
        },
    )


def keep_parallelism(record: Record, before: RecordValues, *, threads: int, replicas: int | None) -> None:
    """Record what last bits depend on; that a run goes on on another number of replicas is told."""
    known, then = record.values["environment"], before["environment"].get("replicas")
    if before["status"] == "completed":  # which is only measured
        replicas = then
    now: dict[str, Any] = {**known, "threads": threads} | ({"replicas": replicas} if replicas else {})
    if then and replicas and then != replicas:
        change = f"replicas {then} -> {replicas}"
        log.warning("continued on other devices, so last bits may differ; the data's order does not: %s", change)
        now["changes"] = [*known["changes"], f"{change} (after epoch {before['epoch']})"]
    if replicas and before["status"] != "completed":
        log.info("each batch is divided among replicas: %d, a device each", replicas)
    record.update(environment=now)


def keep_code(run: Run, record: Record, *, epoch: int) -> None:
    """Keep what no commit has of the code of this run, which goes on after `epoch`, and say so in its record."""
    prints, known = record.values["fingerprints"], record.values["environment"]
    try:
        found = find_sources(computing_files([*prints["code"], *prints.get("files", ())]) | _option_files(run))
        found.keep(run.directory / "code", epoch=epoch)
    except (OSError, subprocess.SubprocessError) as error:  # no result hangs on it
        log.warning("what no commit has of the code is not kept: %s", error)
        return
    if found.left_out:
        log.warning("%s/code takes 1 MiB and no secrets, and so not %s", run.directory, ", ".join(found.left_out))
    record.update(environment={**known, "git": found.git, "repositories": found.repositories})


def _option_files(run: Run) -> set[Path]:
    """The files of the options in use."""
    chosen = {group: [option] if isinstance(option, str) else option for group, option in run.choices.items()}
    names = [f"{group.partition('@')[0]}/{option}" for group, options in chosen.items() for option in options]
    folders = [Path(source.path) for source in run.hydra.runtime.config_sources if source.schema == "file"]
    files = {folder / f"{name}.yaml" for folder in folders for name in [run.hydra.job.config_name, *names]}
    return {file for file in files if file.is_file()}


def _flags(run: Run) -> list[str]:
    """What the command says beside its overrides, that options are found by."""
    name, given = run.hydra.job.config_name, plain_values(run.hydra.overrides)["hydra"]
    flags = [] if name == CONFIG_NAME else [f"--config-name={name}"]
    return [*flags, *filter(None, [search_path(given)])]


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Slurm's commands: an array is submitted, its tasks are listed, and ended. `sacct` is not among them, which few sites
have without accounting.

array = submit(["--partition=gpu"], script, [str(jobs), "0"])    # "12"; its tasks are "12_0", "12_1", ...
tasks = list_tasks()                                    # {"12_0": ("RUNNING", "None")}
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.common.errors import ConfigError

COMMAND_SECONDS = 300.0  # Slurm's own commands give up earlier
DEFAULT_ARRAY_SIZE = 1001  # Slurm's own MaxArraySize
# Those of a Slurm job that this command may be part of, and filters that would hide tasks.
NOT_PASSED = re.compile(r"SLURM_(?!CONF$|JWT$)|SQUEUE_|SCANCEL_|SBATCH_WAIT$")

# What a task runs: $1 is a file of a directory and a command a line, $2 the line (from 0) of the array's first task.
# Slurm gives USR1 to this shell alone, and TERM to all processes of a job: the run hears each once, and this waits.
SCRIPT = """\
#!/bin/bash
told='' child=''
trap 'told=1; [ -n "$child" ] && kill -USR1 "$child" 2>/dev/null' USR1
trap 'told=1' TERM
cd {cwd} || exit 1
{setup}
line=$(sed -n "$(($2 + SLURM_ARRAY_TASK_ID + 1))p" "$1") && [ -n "$line" ] || {{ echo "no job in $1"; exit 1; }}
eval "set -- $line"
progress() {{ grep '"step":' "$1/run.json" 2>/dev/null; }}
before=$(progress "$1") directory=$1
shift
[ -z "$told" ] || {{ echo "ended before it began"; exit 143; }}
"$@" &
child=$!
code=''
until told=''; wait "$child"; code=$?; [ -z "$told" ]; do :; done
if [ "$code" = 138 ] && [ "$before" = "$(progress "$directory")" ] && [ -n "$before" ]; then
  echo "not requeued, since it came no step further within its time: give it more (hydra.launcher.time)"
elif [ "$code" = 138 ]; then
  echo "job $SLURM_JOB_ID on $(hostname) has saved itself and is requeued"
  scontrol requeue "$SLURM_JOB_ID" && exit "$code"
fi
echo "job $SLURM_JOB_ID on $(hostname) ended with exit code $code"
exit "$code"
"""


def check_commands() -> None:
    """Raise ConfigError where Slurm's commands are not on PATH."""
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        if not shutil.which(name):
            raise ConfigError(
                f"hydra/launcher=slurm needs {name}, which is not on PATH: type the command on a machine from which "
                "jobs are submitted to Slurm, or give hydra/launcher=local"
            )


def max_array_size() -> int:
    """How many tasks one array may have here."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config").stdout, re.M)
    return int(found[1]) if found else DEFAULT_ARRAY_SIZE


def submit(options: Sequence[str], script: Path, arguments: Sequence[str]) -> str:
    """Submit a script; returns the job's id.

    Raises:
        ConfigError: Slurm refuses it, with its message.
    """
    done = _run("sbatch", "--parsable", *options, str(script), *arguments)
    if done.returncode:
        raise ConfigError(
            f"Slurm refuses the jobs: {' '.join(done.stderr.split())} (sbatch {' '.join(options)}). "
            "What sbatch is given are the options of hydra.launcher"
        )
    return done.stdout.strip().partition(";")[0]


def list_tasks() -> dict[str, tuple[str, str]] | None:
    """State and reason of each task of this user's that waits or runs; None where Slurm does not answer."""
    # Of one user, which Slurm answers whatever jobs it has forgotten; `-r` has a line for each task that waits.
    done = _run("squeue", "--me", "--noheader", "--array", "--format=%F_%K %T %r")
    if done.returncode:
        return None
    rows = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def cancel(tasks: Iterable[str], *options: str) -> None:
    """End tasks or arrays."""
    if names := list(tasks):
        _run("scancel", *options, *names)


def ask_to_end(tasks: Iterable[str], *, by_srun: bool) -> None:
    """Runs save and end, however long it takes.

    Args:
        by_srun: whether srun started them, which kills them at once if it hears TERM itself.
    """
    names = list(tasks)
    for whom in (["--batch"], []) if by_srun else (["--full"],):  # the script and then what srun started, or all
        cancel(names, *whom, "--signal=TERM")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """In a session of its own: Ctrl-C is for this process alone."""
    environment = {name: value for name, value in os.environ.items() if not NOT_PASSED.match(name)}
    try:
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))

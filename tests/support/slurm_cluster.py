"""A Slurm of one node on this machine, without accounting, systemd or cgroups; its daemons are ended by their ids."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

START_SECONDS = 60
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
# A requeued job waits until its old credential cannot be valid any more: by default two minutes.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=15
MinJobAge=2
MaxArraySize=5
MailProg=/bin/true
SchedulerParameters=batch_sched_delay=0,sched_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverTimeLimit=0
"""


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SBIN)]


class SlurmCluster:
    """Its node has two cores; `environment` is what commands need to find it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets allow no long paths
        self._daemons: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool"):
            (self._folder / name).mkdir()
        config = self._folder / "slurm.conf"
        host = socket.gethostname().partition(".")[0]
        config.write_text(CONFIG.format(folder=self._folder, host=host, user=getpass.getuser(), ports=_free_ports(2)))
        self.environment = {**os.environ, "SLURM_CONF": str(config), "PATH": SBIN}
        key = self._folder / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        files = [
            f"--{name}={self._folder}/munge.{name.partition('-')[0]}" for name in ("socket", "pid-file", "log-file")
        ]
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--seed-file={self._folder}/seed", *files
        )
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", host)
        deadline = time.monotonic() + START_SECONDS
        while self.run("sinfo", "--noheader", "--format=%T").split() != ["idle"]:
            assert time.monotonic() < deadline, (self._folder / "slurmctld.log").read_text()
            time.sleep(0.2)

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints; empty where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    def end_jobs(self) -> None:
        """End all jobs, and wait until they have ended."""
        while states := self.run("squeue", "--noheader", "--format=%T").split():
            if set(states) != {"COMPLETING"}:
                self.run("scancel", "--state=PENDING", f"--user={getpass.getuser()}")
                self.run("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
            time.sleep(0.5)

    def close(self) -> None:
        """End jobs and daemons, and remove the folder."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.end_jobs()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as output:
            self._daemons.append(subprocess.Popen(command, env=self.environment, stdout=output, stderr=output))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

"""Commands in processes that need not import TensorFlow: forked from one that has, as a sweep's jobs are.

    result = run("src.train", ["data=digits"], cwd=tmp_path)        # a subprocess.CompletedProcess[str]

Importing is most of a short run's time, and nothing that these tests are about. What is, as a command that answers
without TensorFlow, runs in a fresh process: `tests.support.helpers.run_module`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from src.config import targets
from src.config.compose import compose
from src.sweeps.preload import preload

ROOT = Path(__file__).resolve().parents[2]
OWN = (
    "data",
    "data.transforms",
    "model",
    "learner",
    "loss",
    "metric",
    "callback",
    "schedule",
)  # groups whose options may name what is in a package `mine`
# The project first, then what the tests themselves were given, as another Hydra.
PYTHONPATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def run(module: str, arguments: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Do what `python -m <module> <arguments>` does in `cwd`."""
    server = _server()
    assert server.stdin and server.stdout
    with tempfile.NamedTemporaryFile() as stdout, tempfile.NamedTemporaryFile() as stderr:
        request = {"module": module, "arguments": arguments, "cwd": str(cwd), "outputs": [stdout.name, stderr.name]}
        with suppress(BrokenPipeError):
            server.stdin.write(json.dumps(request | {"environment": _environment()}) + "\n")
            server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            _server.cache_clear()
            raise RuntimeError("the process that commands are forked from has ended; see python -m tests.support.forks")
        texts = [Path(file.name).read_text() for file in (stdout, stderr)]
    return subprocess.CompletedProcess([module, *arguments], int(answer), *texts)


@functools.cache
def _server() -> subprocess.Popen[str]:
    """One for this process, since it may have run TensorFlow's ops and must not be forked itself."""
    command = [sys.executable, "-m", "tests.support.forks"]
    server = subprocess.Popen(command, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # without a further request it ends
    return server


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PYTHONPATH}


def _serve() -> None:
    preload()
    importlib.import_module("src.train")
    del sys.modules["src.train"]  # runpy warns of a module that is imported before it runs
    compose([])  # Hydra's grammar and the project's files of options are read once
    _allow("callback tests.support.faults\n" + "".join(f"{group} mine\n" for group in OWN))
    gc.freeze()  # a collection in a child would copy the pages of all that is here
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _live(**json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _allow(line: str) -> None:
    """Let configs name what is the tests' own, as a user's line in conf/targets.txt does."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    file = Path(folder.name, "targets.txt")
    file.write_text(f"{targets.FILE.read_text()}{line}")
    targets.FILE = file


def _live(*, module: str, arguments: list[str], cwd: str, outputs: list[str], environment: dict[str, str]) -> None:
    code = 1
    try:
        os.chdir(cwd)
        sys.path[0] = cwd
        os.environ.clear()
        os.environ.update(environment)
        for number, path in enumerate([os.devnull, *outputs]):
            descriptor = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()

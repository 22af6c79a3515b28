"""What all commands share: no end of a stream changes what is done, and an error names what raised it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.command import exit_code
from src.common.errors import LONGEST_LINE, ConfigError, control_flow_on_tensor, described, one_line
from tests.support.helpers import ROOT, only_run

TINY = ["data=digits", "model=mlp", "model.hidden_units=[8]", "epochs=1", "~callback.images", "callback.export=null"]
STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
OPENS = "import os, src; print(os.open('file', os.O_WRONLY | os.O_CREAT), file=open('found', 'w'))"


def run(words: list[str], cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, text=True, check=False, **options)


def without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("streams", [["stdout", "stderr"], ["stdout"]], ids=" ".join)
def test_a_run_that_nobody_reads_any_more_is_completed(tmp_path, streams):
    pipes = {name: without_reader() for name in streams}
    done = run(["-m", "src.train", *TINY], tmp_path, **{"stderr": subprocess.PIPE, **pipes})
    record = json.loads((only_run(tmp_path / "outputs/digits") / "run.json").read_text())
    assert (done.returncode, record["status"], record["error"]) == (0, "completed", None), done.stderr


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_sweep_that_nobody_reads_any_more_goes_on(tmp_path):
    nobody = without_reader()
    done = run(["-m", "src.train", "--multirun", *TINY, "seed=1,2"], tmp_path, stdout=nobody, stderr=nobody)
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/digits/*/run.json")]
    assert (done.returncode, [record["status"] for record in records]) == (0, ["completed"] * 2)


@pytest.mark.parametrize(
    "closed", [names for count in (1, 2, 3) for names in itertools.combinations(STREAMS, count)], ids=" ".join
)
def test_no_file_takes_the_number_of_a_closed_stream(tmp_path, closed):
    run(["-c", OPENS], tmp_path, preexec_fn=lambda: [os.close(STREAMS[name]) for name in closed])
    assert int((tmp_path / "found").read_text()) > 2


@pytest.mark.slow
def test_a_run_whose_streams_are_closed_is_completed(tmp_path):
    done = run(["-m", "src.train", *TINY], tmp_path, preexec_fn=lambda: os.closerange(0, 3))
    folder = only_run(tmp_path / "outputs/digits")
    assert (done.returncode, json.loads((folder / "run.json").read_text())["status"]) == (0, "completed")
    written = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    logged = [name for name, content in written.items() if b"cuda" in content.lower() or b"WARNING: All log" in content]
    assert logged == []


def test_what_cannot_be_written_is_an_error_only_where_it_is_the_result(tmp_path):
    done = run(
        ["-m", "src.compare", "--help"], tmp_path, stdout=os.open("/dev/full", os.O_WRONLY), stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stderr) == (1, "error: standard output cannot be written: No space left on device\n")


def test_an_error_of_the_users_own_code_names_its_kind_and_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def build(sizes):\n    return sizes[3]\n")
    namespace: dict = {}
    exec(compile((tmp_path / "mine.py").read_text(), tmp_path / "mine.py", "exec"), namespace)

    def wrong(argv):
        raise ConfigError("epochs is 0")

    assert exit_code(lambda argv: namespace["build"]([1]), []) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: IndexError: list index out of range\n") and "mine.py:2, in build: return siz" in said
    assert exit_code(wrong, []) == 2 and capsys.readouterr().err == "error: epochs is 0\n"
    assert described(ValueError("")) == "ValueError('')"
    assert exit_code(lambda argv: control_flow_on_tensor(None), []) == 1  # a mistake of the project's own
    said = capsys.readouterr().err
    assert said.startswith("error: AttributeError: ") and "src/common/errors.py:" in said and "HYDRA_FULL_ERROR" in said


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("broken", "broken"),
        ("\n\x1b[1mbroken\x1b[0m\n\n in  two", "broken in two"),
        ("word " * 99 + "last", "word " * 99 + "last"),
        ("word-word " * 99, "word-word " * 49 + "..."),
        ("", ""),
    ],
)
def test_a_message_on_one_line_ends_after_a_word(message, shown):
    assert one_line(message) == shown and len(one_line(message)) <= LONGEST_LINE


@pytest.mark.parametrize("flags", [["-u"], []], ids=str)
def test_what_is_printed_is_out_at_once_where_python_is_told_so(tmp_path, flags):
    code = "import os; from src.common.command import set_up_streams; set_up_streams(); print('said'); os._exit(0)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("PYTHONUNBUFFERED", None)
    done = subprocess.run([sys.executable, *flags, "-c", code], env=env, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == ("said\n" if flags else "")


def test_a_home_folder_is_meant_where_shells_leave_it(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    code = "from src.common.command import run_command; run_command(lambda argv: print(*argv))"
    words = ["data.path=~/pets,~/b", "--output=~", "a=b=~/c", "~callback.images", "name=~x"]
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == [f"data.path={tmp_path}/pets,{tmp_path}/b", f"--output={tmp_path}", *words[2:]]

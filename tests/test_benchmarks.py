"""The benchmarks run and compare what they measure; what they measure is not tested."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import campaigns, figures, pairs, speed, sweeps
from benchmarks.__main__ import find, main
from benchmarks.campaigns import Tally
from benchmarks.figures import Figure

ROOT = Path(__file__).resolve().parents[1]


def prints(text: str, *, exit_code: int = 0) -> list[str]:
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({exit_code})"]


def test_benchmarks_are_listed_with_what_they_compare(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    speed = {"input", "loop", "memory", "saves", "speed", "start", "threads"}
    assert set(find()) == {"bits", "compare", "jobs", "resume", "seeded_faults", "sweeps", *speed}
    assert all(re.search(rf"^  {name} +\S", listed, re.M) for name in find())


def test_an_unknown_benchmark_is_a_wrong_command(capsys):
    assert main(["lop"]) == 2
    assert "loop" in capsys.readouterr().err


def test_processes_are_interleaved_and_their_last_line_counts(tmp_path):
    order = tmp_path / "order"
    code = "import sys; open({!r}, 'a').write({!r}); print('noise'); print('{{\"speed\": {}}}')"
    commands = {
        name: [sys.executable, "-c", code.format(str(order), name, speed)] for name, speed in (("a", 6.0), ("b", 2.0))
    }
    results = pairs.interleave(commands, repeats=2)
    assert order.read_text() == "abab"
    assert pairs.ratios(results["a"], results["b"], "speed") == [3.0, 3.0]


@pytest.mark.parametrize("command", [prints("{}", exit_code=3), prints("done"), prints("3")])
def test_a_process_without_a_result_fails_the_benchmark(command):
    with pytest.raises(pairs.ProcessFailed, match="'a' failed"):
        pairs.run("a", command)


def test_results_that_differ_fail_the_benchmark():
    assert pairs.require_close("loss", ours=[1.0, 2.0], peer=[1.0, 2.000001], relative=1e-5) == pytest.approx(5e-7)
    with pytest.raises(pairs.Disagreement, match="loss, value 2"):
        pairs.require_close("loss", ours=[1.0, 2.0], peer=[1.0, 2.001], relative=1e-5)
    with pytest.raises(pairs.Disagreement, match="nan"):
        pairs.require_close("loss", ours=[float("nan")], peer=[1.0], relative=1e-5)
    with pytest.raises(pairs.Disagreement, match="2 values"):
        pairs.require_close("loss", ours=[1.0, 2.0], peer=[1.0], relative=1e-5)


def test_figures_are_told_with_their_goals_and_their_change_since_the_last_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "LAST", tmp_path / "last.json")
    figures.finish([Figure("speed", [4.0]), Figure("other", [1.0])])
    figures.finish([Figure("speed", [2.0])])
    capsys.readouterr()
    figures.finish(
        [
            Figure("speed", [1.0, 3.0, 2.0, 5.0, 4.0], at_least=3.0),
            Figure("time", [0.5, 0.25], at_most=0.3),
            Figure("other", [1.0]),
        ]
    )
    machine, _, header, _, *rows = capsys.readouterr().out.splitlines()
    assert machine.startswith("machine: ") and header.split()[:3] == ["figure", "median", "quartiles"]
    assert re.fullmatch(r"speed +3 +2 to 4 +5 +at least 3 +met +2 +\+50%", rows[0])
    assert re.fullmatch(r"time +0\.375 +0\.312 to 0\.438 +2 +at most 0\.3 +MISSED", rows[1])
    assert re.fullmatch(r"other +1 +1 to 1 +1 +1 +\+0%", rows[2])


def test_the_page_of_figures_is_written_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        speed.write(page, "the table")
    text = page.read_text()
    assert text.startswith("before\n<!-- measured -->") and text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text and text.count("the table") == 1


def test_a_disagreement_ends_with_exit_code_1(monkeypatch, capsys):
    def disagree(argv):
        pairs.require_equal("steps", ours=40, peer=41)

    monkeypatch.setattr(find()["loop"], "main", disagree)
    assert main(["loop"]) == 1
    assert "steps: ours 40, the peer 41" in capsys.readouterr().err


def test_campaigns_do_their_share_and_fail_where_something_did_not_hold(capsys, tmp_path):
    counts = {"good": (50, lambda folder, count: Tally("good", count, count, "all")), "bad": (1, one_is_lost)}
    arguments = campaigns.parser("test", "Test.", counts)
    assert campaigns.run(counts, arguments.parse_args(["good", "--share", "0.1"])) == 0
    assert re.search(r"^good +5 of +5 held  all$", capsys.readouterr().out, re.M)
    assert campaigns.run(counts, arguments.parse_args([])) == 1
    with pytest.raises(SystemExit, match="2"):
        arguments.parse_args(["god"])
    assert "unknown god; there is good, bad" in capsys.readouterr().err


def one_is_lost(folder: Path, count: int) -> Tally:
    assert not any(folder.iterdir())
    return Tally("bad", count, count - 1, "one is lost")


def test_without_joblib_s_launcher_the_extra_is_named(monkeypatch, capsys):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert main(["sweeps", "pairs"]) == 1
    assert re.fullmatch(r"error: .*'\.\[bench\]'\n", capsys.readouterr().err)


@pytest.mark.slow
def test_sweeps_are_measured_against_fresh_processes_and_joblib_with_equal_results(tmp_path, capsys):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra `bench`")
    sweeps.pairs(tmp_path, 1, epochs=1, runs=2)
    printed = capsys.readouterr().out
    assert "1 interleaved rounds, equal results in all" in printed
    number = r"\d+\.\d+"
    for row in (sweeps.SWEEP, sweeps.FRESH, sweeps.JOBLIB):
        assert re.search(rf"^{row}(  +{number}){{7}}$", printed, re.M), printed


@pytest.mark.slow
@pytest.mark.exhaustive
def test_sweeps_are_issued_again_and_their_parent_s_memory_is_sampled(capsys):
    assert main(["sweeps", "again", "memory", "--share", "0.02"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^again +1 of +1 held  2 jobs: .* 2 known, no file of a run touched$", printed, re.M)
    assert re.search(r"^memory +1 of +1 held  jobs 2 to 4: parent \d+\.\d to \d+\.\d MB", printed, re.M)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_loop_is_measured_against_fit_and_agrees_with_it():
    command = [sys.executable, "-m", "benchmarks", "loop", "--case", "cnn", "--quick", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    number = r"\d+(\.\d+)?(e[+-]?\d+)?"
    assert re.search(rf"agree within {number}$", done.stdout, re.M)
    for row in ("ours", "Model.fit, its defaults"):
        assert re.search(rf"^{row}(  +{number}){{9}}$", done.stdout, re.M), done.stdout
    for part in ("training and validation", "summaries", "record", "checkpoint", "whole epoch"):
        assert re.search(rf"^{part}(  +{number}){{3}}$", done.stdout, re.M), done.stdout
    assert re.search(r"^machine: \d+ cores .*tensorflow .*keras ", done.stdout, re.M)
    assert re.search(r"^cnn: steps/s, ours / Model\.fit, its defaults .* at least 4 +(met|MISSED)", done.stdout, re.M)

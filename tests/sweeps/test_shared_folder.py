"""What a cluster's folder must hold, tried from other processes, and with machines that see it otherwise."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.errors import ConfigError
from src.sweeps import shared_folder
from src.sweeps.shared_folder import check_shared, look

ROOT = Path(__file__).resolve().parents[2]
LOOK = "import sys; from src.sweeps.shared_folder import look; print(look(sys.argv[1]) or '')"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(shared_folder, "SEEN_SECONDS", 0.3)


def elsewhere(offered, *, path=lambda offered: offered):
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(path(offered))], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip() or None


def test_other_processes_share_a_folder_and_nothing_is_left(tmp_path):
    folder = tmp_path / "new" / "sweeps"
    check_shared(folder, lambda offered: {"a": elsewhere(offered), "b": elsewhere(offered)})
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_not_seen_is_refused(tmp_path):
    other = functools.partial(elsewhere, path=lambda offered: f"{offered}-elsewhere")
    with pytest.raises(ConfigError, match=rf"^b cannot share {tmp_path} .* does not see a file .* same path"):
        check_shared(tmp_path, lambda offered: {"a": elsewhere(offered), "b": other(offered)})
    assert list(tmp_path.iterdir()) == []


def test_locks_that_are_one_machine_s_own_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_folder, "holder_of", lambda path: None)
    with pytest.raises(ConfigError, match=r"a lock held there is not seen.*nolock"):
        check_shared(tmp_path, lambda offered: {"a": look(offered)})


def test_a_folder_that_takes_no_locks_is_refused(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(37, "No locks available", str(path))

    monkeypatch.setattr(shared_folder, "holder_of", refuse)
    with pytest.raises(ConfigError, match="No locks available"):
        check_shared(tmp_path, lambda offered: {"a": look(offered)})


@pytest.mark.parametrize("left", ["old", None])
def test_what_is_written_elsewhere_must_be_seen_here(tmp_path, left):
    """As where a file's old content, or that it was not there, is remembered for long."""

    def ask(offered):
        answer = look(offered)
        for path in Path(offered).glob("from-*"):
            path.write_text(left) if left else path.unlink()
        return {"a": answer}

    with pytest.raises(ConfigError, match="what a wrote there is not seen here within"):
        check_shared(tmp_path, ask)


def test_an_old_content_elsewhere_is_refused(tmp_path):
    def ask(offered):
        Path(offered, "here").write_text("old")
        return {"a": look(offered)}

    with pytest.raises(ConfigError, match="does not see a file written there"):
        check_shared(tmp_path, ask)

"""`--help` says what Hydra would say, without its seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from src.config.compose import CONFIG_DIR, compose
from src.config.help import help_text
from src.train import _command


def by_hydra(*words: str) -> str:
    main = f"hydra.main(version_base='1.3', config_path={str(CONFIG_DIR)!r}, config_name='train')"
    code = f"import hydra; from src.config import compose; {main}(lambda cfg: None)()"
    command = [sys.executable, "-c", code, "--help", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_help_is_hydra_s(capsys):
    for words in ([], ["epochs=3", "model=cnn"]):
        _command(["--help", *words])
        assert capsys.readouterr().out == by_hydra(*words)


def test_help_lists_the_options_of_one_s_own_folder(capsys, tmp_path):
    (tmp_path / "model" / "wide").mkdir(parents=True)
    (tmp_path / "model" / "mine.yaml").write_text("_target_: src.models.cnn.cnn\n")
    (tmp_path / "model" / "wide" / "best.yaml").write_text("_target_: src.models.cnn.cnn\n")
    for words in (["--config-dir", str(tmp_path)], [f"hydra.searchpath=['{tmp_path}']"]):
        _command(["--help", *words])
        text = capsys.readouterr().out
        assert "model: backbone" in text and ", mine, " in text and "\nmodel/wide: best\n" in text


@pytest.mark.parametrize("template", ["$CONFIG", "$FLAGS_HELP $APP_CONFIG_GROUPS", "$HYDRA_CONFIG_GROUPS"])
def test_a_template_that_asks_for_more_is_left_to_hydra(template):
    cfg = compose([])
    cfg.hydra.help.template = template
    assert help_text(cfg) is None

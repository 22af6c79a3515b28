"""The commands and snippets of a page of docs/."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.forks import ROOT

SERVE = ROOT / "docs" / "serve.md"
RUN = "outputs/digits/<run>"  # which stands for a run's directory


def blocks(page: Path, heading: str, language: str = "", *, run: Path | None = None) -> list[str]:
    """The code blocks of a language below a heading, with a run's directory where `RUN` stands."""
    section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, (page, heading)
    return [text.replace(RUN, str(run)) if run else text for text in found]

"""The same sweep started several times at once: each keeps a record, and every run is trained by one of them."""

from __future__ import annotations

import pytest

from benchmarks.sweeps import starts


@pytest.mark.exhaustive
@pytest.mark.slow
def test_sweeps_started_together_share_their_runs(tmp_path):
    row = starts(tmp_path, 4, jobs=3)
    assert row.tries == row.held == 4, row.remark

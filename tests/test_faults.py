"""A short version of `python -m tests.faults`."""

import pytest

from tests import faults


@pytest.mark.slow
def test_nothing_is_lost_silent_or_without_a_message():
    rows = faults.run(kills_=1, corruptions_=8, sample=1, seed=1)
    assert all(map(faults.is_clean, rows)), rows
    assert rows[0]["resumed"] > 0

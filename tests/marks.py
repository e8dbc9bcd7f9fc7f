"""Cases of a test that are slow, and so run by `-m slow` alone."""

import pytest


def slow(*values, **options):
    """One case of `parametrize`, from its values."""
    return pytest.param(*values, marks=pytest.mark.slow, **options)

"""What the command line says is what a program has, or it is refused."""

import sys

import pytest
from absl import flags

from train_lib import command
from train_lib.errors import UserError


@pytest.fixture
def refusal(monkeypatch):
    """Why a command line is refused; nothing, if it is not."""

    def parse(*words):
        monkeypatch.setattr("sys.argv", ["main.py", *words])
        try:
            command._parse(sys.argv)
        except UserError as error:
            return str(error)
        finally:
            flags.FLAGS.unparse_flags()
        return ""

    return parse


def test_one_config_is_read(refusal):
    assert not refusal("--config", "configs/lstm.py", "-config.model.hidden_sizes=(4,)")


@pytest.mark.parametrize("first", [["--config=configs/lstm.py"], ["-config", "configs/lstm.py"]])
@pytest.mark.parametrize("field", ["model.hidden_sizes=(4,)", "train.num_epochs=4", "name=x"])
def test_no_override_is_lost_to_a_second_config(refusal, first, field):
    words = [*first, "--config", "configs/bilstm.py", f"--config.{field}"]
    assert refusal(*words) == "--config is given twice; name one experiment."

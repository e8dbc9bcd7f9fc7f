"""What the command line says is what a program has, or it is refused."""

import pytest

from train_lib.errors import UserError


@pytest.mark.parametrize("name", [["--config=configs/lstm.py"], ["-config", "configs/lstm.py"]])
def test_one_config_is_read(start_with, name):
    config = start_with(*name, "-config.model.hidden_sizes=(4,)").config
    assert (config.name, config.model.hidden_sizes) == ("lstm", (4,))


@pytest.mark.parametrize("first", [["--config=configs/lstm.py"], ["-config", "configs/lstm.py"]])
@pytest.mark.parametrize("field", ["model.hidden_sizes=(4,)", "train.num_epochs=4", "name=x"])
def test_no_override_is_lost_to_a_second_config(start_with, first, field):
    refused = ""
    try:
        start_with(*first, "--config", "configs/bilstm.py", f"--config.{field}")
    except UserError as error:
        refused = str(error)
    assert refused == "--config is given twice; name one experiment."

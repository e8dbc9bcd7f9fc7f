"""Runs one experiment: python main.py --config=configs/stacked.py."""

import glob
import re

from absl import app, flags, logging
from ml_collections import config_flags

from train_lib import devices, loop
from train_lib.errors import UserError, told_to_user

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, as in configs/stacked.py or configs/stacked.py:tutorial."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, new or empty; by default one under runs/."
)


def parse_flags(argv):
    """Parses the command line, which loads the config file, with errors told to the user."""
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is None:
            raise ValueError("--config is missing")
        _CONFIG.value.name  # noqa: B018  A file that could not be loaded says so only now.
        return rest
    except Exception as error:  # A config file is Python: whatever it raises.
        text = str(error.args[0] if error.args else error)
        raised = re.findall(r"^ *(\w+Error: .*)$", text, re.MULTILINE)  # By the config file.
        experiments = set(glob.glob("configs/[!_]*.py")) - {"configs/base.py"}
        raise UserError(
            f"{raised[-1] if raised else text}\nAn experiment is run as in python main.py "
            f"--config=configs/stacked.py. There are {', '.join(sorted(experiments))}; :tutorial "
            "behind one of them gives the tutorial's treatment of length."
        ) from error


def main(argv):
    logging.set_verbosity(logging.WARNING)  # Libraries' chatter; the run speaks for itself.
    if len(argv) > 1:
        raise UserError(f"unexpected arguments: {' '.join(argv[1:])}")
    devices.configure()
    loop.run(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    with told_to_user():
        app.run(main, flags_parser=parse_flags)

"""Runs one experiment: python main.py --config=configs/stacked.py."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from train_lib import devices, loop
from train_lib.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, as in configs/stacked.py or configs/stacked.py:tutorial."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, new or empty; by default one under runs/."
)


def main(argv):
    logging.set_verbosity(logging.WARNING)  # Libraries' chatter; the run speaks for itself.
    if len(argv) > 1:
        raise UserError(f"unexpected arguments: {' '.join(argv[1:])}")
    if _CONFIG.value is None:
        raise UserError("name an experiment, as in --config=configs/stacked.py")
    devices.configure()
    loop.run(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    try:
        app.run(main)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")

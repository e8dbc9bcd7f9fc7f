"""The command line of a program that takes an experiment's config."""

import glob
import re
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from train_lib import devices
from train_lib.errors import UserError, told_to_user
from train_lib.report import RunFolder

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, as in configs/stacked.py or configs/stacked.py:tutorial."
)

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder to work in; one that was worked in before is gone on with."
)


def run(main: Callable[[ConfigDict, str | None], object]) -> None:
    """Calls `main(config, workdir)` when flags are read and JAX is set up; errors go to the user.

    Without `--config`, the config is the one that lies in `--workdir` as JSON.
    """

    def start(argv):
        logging.set_verbosity(logging.WARNING)  # Libraries' chatter; the run speaks for itself.
        if len(argv) > 1:
            raise UserError(f"unexpected arguments: {' '.join(argv[1:])}")
        devices.configure()
        workdir, config = _WORKDIR.value, _CONFIG.value
        main(RunFolder(workdir or "").read_config() if config is None else config, workdir)

    with told_to_user():
        app.run(start, flags_parser=_parse)


def _parse(argv):
    """Parses the command line, which loads the config file, with errors told to the user."""
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.name  # noqa: B018  A file that could not be loaded says so only now.
        elif not _WORKDIR.value or not RunFolder(_WORKDIR.value).is_begun():
            raise ValueError("--config is missing")
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

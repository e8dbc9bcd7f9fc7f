"""Runs one experiment, or resumes it: python main.py --config=configs/stacked.py

It trains, tests and leaves a folder under runs/. Any field of configs/base.py can be set, as in
--config.train.num_epochs=5. Without --config, the run in --workdir is resumed.
"""

from train_lib import train  # isort: skip  First: it says which libraries are missing.
from absl import flags

flags.adopt_module_key_flags(train)

if __name__ == "__main__":
    train.main()

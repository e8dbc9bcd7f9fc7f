"""Runs one experiment, or resumes it: python main.py --config=configs/stacked.py."""

from absl import flags

from train_lib import train

flags.adopt_module_key_flags(train)

if __name__ == "__main__":
    train.main()

"""Runs one experiment, or resumes it: python main.py --config=configs/stacked.py."""

from absl import flags

from train_lib import command, run

flags.adopt_module_key_flags(command)

if __name__ == "__main__":
    command.run(run.run)

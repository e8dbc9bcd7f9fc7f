"""Runs one experiment, or goes on with it: python main.py --config=configs/stacked.py."""

from absl import flags

from train_lib import command, loop

flags.adopt_module_key_flags(command)

if __name__ == "__main__":
    command.run(loop.run)

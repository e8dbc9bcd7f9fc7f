"""Runs one experiment: python main.py --config=configs/stacked.py."""

from absl import flags

from train_lib import command, loop

flags.adopt_module_key_flags(command)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, new or empty; by default one under runs/."
)

if __name__ == "__main__":
    command.run(lambda config: loop.run(config, _WORKDIR.value))

"""Trains one experiment, or resumes it: what `python main.py` and `seqmodels-train` do."""

from absl import flags

from train_lib import command, run

flags.adopt_module_key_flags(command)
_LOG = flags.DEFINE_list(
    "log", [], "Programs that show metrics, as in tensorboard,wandb; both write into the run's "
    "folder, and send nothing."
)  # fmt: skip
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "The first and the last update to trace, as in 101:120, into the run's "
    "folder profile/."
)  # fmt: skip


def main() -> None:
    """Trains what the command line asks for."""
    command.run(
        lambda config, workdir: run.run(
            config, workdir, log=_LOG.value, profile_steps=_PROFILE_STEPS.value
        )
    )


if __name__ == "__main__":
    main()

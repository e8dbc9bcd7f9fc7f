"""The command line of a program that takes an experiment's config."""

import ast
import json
import pathlib
import re
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from train_lib import files, settings
from train_lib.errors import UserError, told_to_user
from train_lib.records.folder import RunFolder
from train_lib.training import devices, processes

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, as in configs/stacked.py or configs/stacked.py:tutorial."
)


def _find(experiment: str) -> str:
    """The path of an experiment, which may be one shipped with this program.

    Args:
        experiment: a file, as in `configs/lstm.py`, and what follows a colon after it. A file
            not found from the working folder is looked for beside `configs/base.py`.
    """
    path, colon, argument = experiment.partition(":")
    folder, _, name = path.rpartition("/")
    ours = settings.EXPERIMENTS / name
    if folder == settings.EXPERIMENTS.name and not pathlib.Path(path).exists() and ours.is_file():
        return f"{ours}{colon}{argument}"
    return experiment


_PARSER = flags.FLAGS["config"].parser
_PARSER.parse = lambda text, parse=_PARSER.parse: parse(_find(text))  # type: ignore

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder to work in; a run begun there is resumed."
)

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "If several processes train together: host:port, on which the first "
    "waits for the others. The same command runs on every host, except for --process_id."
)  # fmt: skip
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "The number of processes.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number, from 0.", 0)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Takes these three from the cluster: SLURM, Open MPI, a TPU pod, ..."
)


def run(main: Callable[[ConfigDict, str | None], object]) -> None:
    """Reads flags, sets up JAX, and calls `main(config, workdir)`; errors are shown to the user.

    Without `--config`, the config is read from the JSON file in `--workdir`. If several processes
    train together, all use the first one's config.
    """

    def start(argv):
        logging.set_verbosity(logging.WARNING)  # Silences libraries; the run reports for itself.
        if len(argv) > 1:
            raise UserError(f"unexpected arguments: {' '.join(argv[1:])}")
        _join()
        devices.configure()
        config = processes.from_first(lambda: _read_config().to_dict())
        main(ConfigDict(config), _WORKDIR.value)

    with processes.ending_together(), told_to_user():
        app.run(start, flags_parser=_parse)


def words(config: ConfigDict) -> list[str]:
    """The arguments of `main.py` that make a config: a file, and every field that differs from it.

    The file is the one that this program was given or, if it was called from Python, the plainest
    one.
    """
    flag = flags.FLAGS["config"]
    file = "configs/lstm.py" if flag.value is None else config_flags.get_config_filename(flag)
    in_file = _plain(flag.parser.parse(file))
    changed = {path: value for path, value in _plain(config).items() if value != in_file.get(path)}
    return [
        f"--config={file}",
        *(
            f"--config.{path}={tuple(value) if isinstance(value, list) else value}"
            for path, value in changed.items()
        ),
    ]


def _plain(config: ConfigDict) -> dict:
    """The fields of a config by their paths, as JSON types."""
    return dict(settings.flatten(json.loads(json.dumps(config.to_dict()))))


def _join() -> None:
    """Joins this process to the others if flags ask for it."""
    where, number, this = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    given = [value for value in (where, number, this) if value is not None]
    if _DISTRIBUTED.value:
        if given:
            raise UserError(
                "--distributed finds --coordinator, --num_processes and --process_id itself: omit "
                "either it or them."
            )
        processes.join()
    elif given:
        if where is None or number is None or this is None:
            raise UserError(
                "--coordinator=host:port, --num_processes and --process_id must be given together "
                "or not at all."
            )
        if not re.fullmatch(r".+:\d+", where):
            raise UserError(f"--coordinator={where} must be host:port, as in 10.0.0.1:1234.")
        if this >= number:
            raise UserError(
                f"--process_id={this} must be less than --num_processes={number}: they are counted "
                "from 0."
            )
        processes.join(where, number, this)


def _read_config() -> ConfigDict:
    if _CONFIG.value is not None:
        return _CONFIG.value
    if not _WORKDIR.value:
        raise UserError(f"--config is missing{_usage()}")
    if not RunFolder(_WORKDIR.value).is_begun():
        raise UserError(
            f"--config is missing, and there is no run in --workdir={_WORKDIR.value} to "
            f"resume{_usage()}"
        )
    return RunFolder(_WORKDIR.value).read_config()


def _parse(argv):
    """Parses the command line, which loads the config file, with errors shown to the user."""
    try:
        rest = flags.FLAGS(argv)
        if flags.FLAGS["config"].present > 1:  # The second would drop overrides of tuples.
            raise flags.DuplicateFlagError
        if _CONFIG.value is not None:
            _CONFIG.value.name  # noqa: B018  A file that could not be loaded says so only now.
        return rest
    except flags.DuplicateFlagError as error:
        raise UserError("--config is given twice; name one experiment.") from error
    except SystemExit as end:  # absl counts a request for help as an error.
        raise SystemExit(0) from end
    except Exception as error:  # A config file is Python, and can raise anything.
        raise UserError(_what_is_wrong(argv, error)) from error


def _what_is_wrong(argv: Sequence[str], error: Exception) -> str:
    """What is wrong with a command line, or with the config file that it names."""
    for word in argv:
        files.local(re.sub("^--?config=", "", word))  # Rejects addresses.
    reason = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
    text = str(reason.args[0] if reason.args else reason)
    if field := re.search(r"Unknown command line flag '(config\..*?)'", text):
        return f"--{field[1]} changes the config of --config=FILE, which is missing{_usage()}"
    given = re.search(r"\0--?config[=\0]([^\0]+)", "\0".join(argv))
    experiment = _find(given[1]) if given else ""
    path = experiment.partition(":")[0]
    if path and not pathlib.Path(path).is_file():
        return f"--config={experiment}: there is no such file{_usage()}"
    if isinstance(error, SyntaxError):
        return f"--config={path}, line {error.lineno}, is not Python: {error.msg}{_usage()}"
    if raised := re.findall(r"^ *(\w+Error: .*)$", text, re.MULTILINE):  # By the config file.
        return f"--config={experiment}: {raised[-1].removeprefix('ValueError: ')}"
    if isinstance(reason, KeyError) and (name := re.match(r"'(\w+)'", text)):
        flag = next((word for word in argv if re.search(rf"\.{name[1]}\b", word)), name[1])
        likely = re.search(r'mean "(\w+)"', text)
        suggestion = f"; did you mean {likely[1]}?" if likely else ""
        return f"{flag}: configs/base.py has no field {name[1]}{suggestion}"
    return text.removeprefix("flag ")


def _usage() -> str:
    """The available experiments, and what to type."""
    found = [
        (f"{settings.EXPERIMENTS.name}/{path.name}", _about(path))
        for path in sorted(settings.EXPERIMENTS.glob("[!_]*.py"))
        if path.name != "base.py"
    ]
    width = max(len(name) for name, _ in found)
    return "\n".join(
        [
            "",
            "Name an experiment, as in python main.py --config=configs/stacked.py:",
            *(f"  {name:<{width}}  {about}" for name, about in found),
            "With :tutorial, lstm.py, bilstm.py and stacked.py treat lengths as the tutorial does. "
            "Any field of configs/base.py can be set, as in --config.train.num_epochs=5.",
        ]
    )


def _about(path: pathlib.Path) -> str:
    """The first line of a config's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.partition("\n")[0]

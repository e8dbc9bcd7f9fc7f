"""A task by its name or in a file of one's own, and its options."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from train_lib import tasks
from train_lib.tasks import check_task
from train_lib.tasks.classes import Classes
from train_lib.tasks.numbers import Numbers

ROOT = pathlib.Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "add_a_task.md").read_text("utf-8")


def guide_task(tmp_path):
    source = GUIDE.partition("```python\n")[2].partition("```")[0]
    assert len(source.splitlines()) <= 30
    (tmp_path / "stars.py").write_text(source)
    return str(tmp_path / "stars.py")


def test_tasks_are_found_by_name():
    assert tasks.names() == ["classes", "labels", "next_token", "numbers", "tags"]
    assert tasks.find("classes") is Classes


def test_the_guide_names_every_task_and_option():
    for name in tasks.names():
        (row,) = [row for row in GUIDE.splitlines() if row.startswith(f"| `{name}` |")]
        for option in tasks.option_names(tasks.find(name)):
            assert f"`{option}`" in row


@pytest.mark.slow
def test_the_guides_task_is_one_file_that_keeps_the_contract(tmp_path):
    path = guide_task(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "train_lib.tasks.check_task", path, "--targets=[5, 5, 1, 3]"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 outputs per sequence; error decides, lower is better" in done.stdout
    task = tasks.make(path, [1, 2, 3, "4", 5], {}, {}, {})
    outputs_NxC = np.array([[3.0, 2.0, 1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    assert task.answer({"outputs": outputs_NxC}) == ["4", "1"]
    with pytest.raises(tasks.BadTarget, match="is 6, which") as found:
        task.encode([1, 6])
    assert found.value.number == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "must define one subclass of Task of train_lib.tasks.base; it defines none"),
        ("import nothing_of_that_name", "mine.py, line 1, cannot be run: ModuleNotFoundError"),
        ("x = (", "mine.py, line 1, cannot be run: SyntaxError"),
        (
            "from train_lib.tasks.base import Task\nclass A(Task): pass\nclass B(Task): pass",
            "it defines A, B",
        ),
    ],
)
def test_a_file_without_a_task_is_refused(source, message, tmp_path):
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ValueError, match=r"mine\.py") as found:
        tasks.find(str(tmp_path / "mine.py"))
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "clases",
            "unknown task 'clases'; choose one of classes, labels, next_token, numbers",
        ),
        ("base", "unknown task 'base'"),
        ("mine.py", "there is no file 'mine.py' to take a task from"),
    ],
)
def test_a_task_that_is_not_there_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        tasks.find(name)


def test_fields_are_options_where_they_differ_from_their_defaults():
    defaults = {"metric": "", "threshold": "0.5"}
    task = tasks.make("numbers", [1, 2], {"metric": "mae", "threshold": "0.5"}, defaults, {})
    assert isinstance(task, Numbers)
    assert task.metric == "mae"
    with pytest.raises(
        ValueError, match="the task numbers has no option 'threshold'; it has names"
    ):
        tasks.make("numbers", [1, 2], {"metric": "", "threshold": "0.7"}, defaults, {})
    with pytest.raises(
        ValueError, match="the task tags has no option 'x'; it has classes, class_w"
    ):
        tasks.make("tags", [], {}, {}, {"x": 1})
    with pytest.raises(ValueError, match="the option metric of the task numbers is given twice"):
        tasks.make("numbers", [1, 2], {"metric": "mae"}, {"metric": ""}, {"metric": "r2"})


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing"], "error: unknown task 'nothing'"),
        (["classes", "--targets={"], "error: "),
        (["classes", "--targets=[]"], "error: Classes has no targets to check it with"),
    ],
)
def test_check_task_says_what_it_lacks(argv, message):
    with pytest.raises(SystemExit) as found:
        check_task.main(argv)
    assert str(found.value).startswith(message)


def test_check_task_says_where_a_task_fails(tmp_path, capsys):
    source = GUIDE.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "mine.py").write_text(source.replace("np.array([-1", "np.aray([-1"))
    assert check_task.main([str(tmp_path / "mine.py")]) == 1
    out = capsys.readouterr().out
    assert out.startswith("BROKEN  AttributeError: module 'numpy' has no attribute 'aray'")
    assert "mine.py, line 19)" in out


def test_check_task_names_the_bad_target(capsys):
    assert check_task.main(["classes", '--targets=["a", "b", [1]]']) == 1
    assert "the target of example 2 is [1], where one class should be" in capsys.readouterr().out

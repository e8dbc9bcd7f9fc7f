"""Tables on a screen that knows colours, and on one that does not."""

import pytest

from train_lib import screen

TABLES = {
    "Runs of [bold]": [{"run": "one [red]", "score": "0.5 ± 0.1"}, {"run": "b", "score": "-"}]
}


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_a_terminal_shows_the_tables_in_colour_and_names_as_they_are(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen.show(TABLES, ["a note."], "plain")
    shown = capsys.readouterr().out
    assert "\x1b[" in shown
    for text in ("Runs of [bold]", "one [red]", "0.5 ± 0.1", "a note."):
        assert text in shown
    assert "plain" not in shown


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1", "TERM": "dumb"}])
def test_elsewhere_it_is_the_plain_text_and_nothing_else(environment, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen.show(TABLES, ["a note."], "plain")
    assert capsys.readouterr().out == "plain\n"

"""The bar: on terminals only, with log lines above it."""

import io
import logging
import re
import sys

import pytest

from centernet.progress import print_line, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(monkeypatch):
    """Not a fixture: pytest replaces stderr again before it calls the test."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def shown(stream):
    """Lines as they were drawn, without colours and movements."""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\n", stream.getvalue())


def test_nothing_without_a_terminal(capsys):
    with progress("work", 3, unit="picture") as bar:
        assert not bar.is_due
        for _ in range(3):
            bar.advance(note="hidden")
    assert capsys.readouterr() == ("", "")


def test_count_rate_time_left_and_note(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with progress("training", 2000, unit="iteration", done=998) as bar:
        assert "998/2,000" in shown(terminal)
        bar.advance(1002, rate="0.5 s/it", left=3700, note="loss 1.0  lr 0.1")
    text = shown(terminal)
    assert "2,000/2,000  0.5 s/it  1:01:40 left" in text
    assert "loss 1.0  lr 0.1" in text
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l")  # the cursor is there


def test_bytes_and_unknown_totals(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with progress("file", 5_000_000, unit="B") as bar:
        bar.advance(5_000_000)
    assert "5 MB/5 MB" in shown(terminal)
    with progress("frames", None, unit="frame") as bar:
        bar.advance()
        bar.draw()
    assert "1 frames" in shown(terminal)


def test_a_bar_inside_a_bar_is_not_drawn(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with progress("outer", 2, unit="x") as outer:
        with progress("inner", 2, unit="x") as inner:
            inner.advance()
        outer.advance()
    assert "inner" not in terminal.getvalue()
    with progress("later", 1, unit="x"):
        pass
    assert "later" in terminal.getvalue()


def test_log_lines_go_above_it(monkeypatch):
    terminal = on_terminal(monkeypatch)
    handler = logging.StreamHandler(terminal)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with progress("work", 2, unit="x") as bar:
            logging.getLogger("some").warning("a [bold]line[/bold] of 1")
            bar.advance(2)
        assert handler.stream is terminal
    finally:
        root.removeHandler(handler)
    text = shown(terminal)
    assert "a [bold]line[/bold] of 1\n" in text
    assert "work" in text.split("of 1")[1]  # drawn again below


def test_lines_that_are_piped_away_arrive_there(monkeypatch):
    terminal = on_terminal(monkeypatch)
    file = io.StringIO()
    with progress("work", 2, unit="x"):
        print_line("result", file)
    assert file.getvalue() == "result\n"
    assert "result" not in terminal.getvalue()


def test_an_error_inside_ends_it(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with pytest.raises(ValueError, match="x"), progress("work", 2, unit="x"):
        raise ValueError("x")
    with progress("next", 1, unit="x"):
        pass
    assert "next" in terminal.getvalue()

"""Logging: libraries stay silent, programs print plain lines."""

import contextlib
import errno
import io
import logging
import os

import pytest
import trees

import train
from qprompt.__main__ import main
from qprompt.data import fewshot
from qprompt.data.layouts import LAYOUTS
from qprompt.io.logs import LOGGER, show_logs

logger = logging.getLogger(f"{LOGGER}.anything")


def test_messages_are_plain_lines_on_standard_output(capsys):
    show_logs()
    show_logs()
    logger.info("done: %d", 3)
    logger.warning("not so good")
    logger.error("bad")
    logger.debug("details")
    assert capsys.readouterr() == ("done: 3\nWarning: not so good\nError: bad\n", "")


def test_messages_can_go_to_standard_error(capsys):
    show_logs()
    show_logs("stderr")
    logger.info("done")
    assert capsys.readouterr() == ("", "done\n")


def test_messages_follow_a_replaced_standard_output(capsys):
    show_logs()
    with contextlib.redirect_stdout(io.StringIO()) as replaced:
        logger.info("to the log file")
    assert replaced.getvalue() == "to the log file\n" and capsys.readouterr().out == ""


def test_a_library_prints_nothing(tmp_path, capsys, caplog):
    trees.build(tmp_path, "EuroSAT", split=False)
    fewshot.load(LAYOUTS["EuroSAT"].source(tmp_path), 2, seed=1, write=False)
    assert capsys.readouterr() == ("", "")
    assert [(r.name, r.levelname) for r in caplog.records] == [("qprompt.data.fewshot", "WARNING")]


@pytest.mark.parametrize("argv", [["--help"], ["check-data", "DATA", "EuroSAT"]])
def test_a_closed_standard_output_is_no_error(argv, tmp_path, monkeypatch, capsys):
    trees.build(tmp_path, "EuroSAT", content=trees.jpeg())
    monkeypatch.setattr("sys.stdout", None)  # as with >&-
    assert main([str(tmp_path) if word == "DATA" else word for word in argv]) in (0, 1)
    logger.info("for nobody")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("program", "arguments"), [(train.main, []), (main, ["check-data", "DATA"])])
def test_a_deleted_current_folder_is_named(program, arguments, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert program(arguments) == 2
    assert "the current folder was deleted or replaced: type 'cd FOLDER' first." in capsys.readouterr().err


class _Full(io.StringIO):
    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_standard_output_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", _Full())  # as with >/dev/full
    assert main(["--help"]) == 2
    assert capsys.readouterr().err.startswith("qprompt: standard output or a file: No space left on device.")


@pytest.mark.parametrize(("program", "arguments"), [(train.main, []), (main, ["--version"])])
def test_programs_show_logs(program, arguments, capsys):
    program(arguments)
    capsys.readouterr()
    logger.info("shown")
    assert capsys.readouterr().out == "shown\n"


def test_messages_that_another_package_turned_off_are_shown(capsys):
    """Importing ``dassl.data.datasets`` of real Dassl calls ``logging.disable``."""
    show_logs()
    logging.disable(logging.WARNING)
    try:
        logging.getLogger("qprompt.x").warning("lost")
        show_logs()
        logging.getLogger("qprompt.x").warning("seen")
    finally:
        logging.disable(logging.NOTSET)
    assert capsys.readouterr().out == "Warning: seen\n"

from dropkey_core.engine import UserError
from dropkey_core.engine.errors import said_by


def test_a_message_is_one_line_of_bounded_length_that_a_terminal_shows_as_it_is():
    assert UserError("a\nb \x1b[31m\ud800 \u00e9").one_line() == "a b \\x1b[31m\\ud800 \u00e9"
    assert UserError("x" * 5000).one_line() == "x" * 1000 + "..."
    assert UserError("\0" * 5000).one_line() == "\\x00" * 250 + "..."  # made-up files had these


def test_of_a_loader_process_s_traceback_the_message_is_left():
    told = "Caught UserError in DataLoader worker process 0.\n  ...\nUserError: a.jpg: cut short\n"
    assert UserError(told).one_line() == "a.jpg: cut short"


def test_what_a_library_says_is_one_short_line():
    assert said_by(ValueError(" no such\n header ")) == "no such header"
    assert said_by(ValueError("x" * 5000)) == "x" * 200
    assert said_by(EOFError()) == "EOFError"

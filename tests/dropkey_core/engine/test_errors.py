from dropkey_core.engine import UserError


def test_a_message_is_one_line_of_bounded_length_that_a_terminal_shows_as_it_is():
    assert UserError("a\nb \x1b[31m\ud800 \u00e9").one_line() == "a b \\x1b[31m\\ud800 \u00e9"
    assert UserError("x" * 5000).one_line() == "x" * 1000 + "..."

"""``tools/visualize_masks.py``: a picture from one command, one line for a mistake."""

import pytest


@pytest.fixture
def main(load_script):
    return load_script("tools/visualize_masks").main


def test_it_writes_the_picture_and_says_where(main, tmp_path, capsys):
    path = tmp_path / "pictures" / "masks.png"
    arguments = ["--patterns", "key", "block:2", "--grid", "3x4", "--queries", "2"]
    assert main([*arguments, "--output", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.split() == [str(path.with_suffix(".csv")), str(path)]
    assert path.with_suffix(".csv").read_text().startswith("pattern,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patterns", "blok:2"], "pattern must be key, block:SIZE or cross:SIZE"),
        (["--drop-ratio", "1.5"], "drop_ratio must be in [0, 1), got 1.5"),
        (["--output", "masks.xyz"], "Format 'xyz' is not supported"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(main, arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--grid", "14"], ["--grid", "0x3"], ["--queries", "0"]])
def test_options_that_mean_nothing_are_refused(main, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2

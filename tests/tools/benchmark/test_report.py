"""What all benchmark commands share."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from report import (
    argument_parser,
    device,
    picture,
    run_benchmark,
    save,
    speed_table,
)
from timing import Measurement

from dropkey_core.engine import UserError


@pytest.fixture
def results():
    first = Measurement(4, seconds=[2.0, 2.0, 20.0])
    second = Measurement(4, seconds=[1.0, 1.0, 10.0], peak_memory=3 * 2**20)
    return {"job": {"a": first, "b": second}}


@pytest.fixture
def main():
    parser = argument_parser("A benchmark.")
    parser.add_argument("--device", type=device)
    parser.add_argument("--plot", type=picture)
    return lambda *argv: run_benchmark(parser, lambda _: None, argv)


def test_table_by_hand(results):
    assert speed_table(results).splitlines() == [
        "| job | contender | per second | memory, MiB | speed |",
        "|---|---|---:|---:|---:|",
        "| job | a | 2.00 |  | 1.00x |",
        "| job | b | 4.00 | 3 | 2.00x |",
    ]


def test_threads(main):
    torch.set_num_threads(2)
    assert main("--threads", "1") == 0
    assert torch.get_num_threads() == 1


def test_a_file_that_cannot_be_written():
    with pytest.raises(UserError, match=r"cannot write /dev/null/a.png"):
        save(Path("/dev/null/a.png"), Figure())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--threads", "0", "must be at least 1, got 0"),
        ("--repeats", "0", "must be at least 1, got 0"),
        ("--device", "tpu", "must be cpu or cuda, got 'tpu'"),
        ("--plot", "a.xyz", "a.xyz must end in one of .png, .svg, .pdf"),
    ],
)
def test_options_that_mean_nothing_are_refused(main, option, value, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(option, value)
    assert caught.value.code == 2
    assert f"argument {option}: {message}\n" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told(main, capsys):
    with pytest.raises(SystemExit):
        main("--device", "cuda")
    assert "argument --device: torch finds no GPU here\n" in capsys.readouterr().err

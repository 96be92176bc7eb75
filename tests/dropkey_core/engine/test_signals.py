import os
import signal

import pytest
import torch

from dropkey_core.engine import TrainingStopped, read_checkpoint
from tests.dropkey_core.engine.toy_run import after_calls, assert_same_run, files, run, toy

pytestmark = pytest.mark.slow


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def terminate_twice():
    terminate()
    terminate()


def place(name):
    owner, _, function = name.partition(".")
    return (torch if owner == "torch" else toy(owner)), function


@pytest.mark.parametrize(
    ("ask", "code", "where", "count", "step"),
    [
        (interrupt, 130, "ToyModel.forward", 3, 3),
        (terminate, 0, "ToyModel.forward", 3, 3),
        (interrupt, 130, "ToyEvaluator.process", 2, 4),  # in the first evaluation
        (terminate, 0, "ToyEvaluator.process", 10, 12),  # in the last one, after the last step
        (terminate_twice, 0, "torch.save", 2, 5),  # while last.pth is written
    ],
)
def test_asked_to_stop_it_saves_and_goes_on(
    toy_folder, monkeypatch, capsys, ask, code, where, count, step
):
    run(output="whole")
    with monkeypatch.context() as patch, pytest.raises(TrainingStopped) as stopped:
        after_calls(patch, *place(where), count, ask)
        run()
    assert stopped.value.exit_code == code
    assert read_checkpoint(toy_folder / "output" / "last.pth")["step"] == step
    assert f"stopped after step {step}; the same command with --resume" in capsys.readouterr().out
    run(resume=True)
    assert_same_run(toy_folder / "output", toy_folder / "whole")


def test_asked_before_the_first_step_there_is_nothing_to_save(toy_folder, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(TrainingStopped) as stopped:
        after_calls(patch, toy("ToyModel"), "__init__", 1, terminate)
        run()
    assert stopped.value.exit_code == 0
    assert files(toy_folder / "output") == ["config.yaml"]
    assert "stopped after step 0; the same command with --resume" in capsys.readouterr().out
    run("train.max_iter=1", resume=True)
    assert read_checkpoint(toy_folder / "output" / "last.pth")["step"] == 1


def test_second_ctrl_c_ends_it_at_once_and_leaves_what_is_whole(toy_folder, monkeypatch):
    run(output="whole")

    def interrupt_twice():
        interrupt()
        interrupt()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        after_calls(patch, torch, "save", 4, interrupt_twice)  # last.pth of step 10
        run()
    output = toy_folder / "output"
    assert read_checkpoint(output / "last.pth")["step"] == 5
    assert not list(output.glob(".*"))
    run(resume=True)
    assert_same_run(output, toy_folder / "whole")


def test_it_saves_though_nobody_reads_its_messages_any_more(toy_folder, monkeypatch):
    """Ctrl-C also ends the ``tee`` that reads them."""

    def broken(number, text):
        raise BrokenPipeError

    with monkeypatch.context() as patch, pytest.raises(TrainingStopped):
        after_calls(patch, toy("ToyModel"), "forward", 3, interrupt)
        patch.setattr(os, "write", broken)
        run()
    assert read_checkpoint(toy_folder / "output" / "last.pth")["step"] == 3


def test_signal_handlers_are_put_back(toy_folder):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run("train.max_iter=1")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

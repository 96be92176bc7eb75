"""The check of CUDA machines, as far as it goes without one."""

import contextlib
import io
import subprocess
import sys
from unittest import mock

import pytest

PAGE = [
    "# GPU check",
    "## Attention",
    "## DETR: training step and inference",
    "## The demo's images",
    "## DETR's demo in bfloat16",
    "## Tests that need a GPU",
]


@pytest.fixture
def check(load_script):
    return load_script("tools/gpu_check")


@pytest.fixture
def few_processes(check, load_script, monkeypatch):
    """Runs scripts in this process, which saves the seconds of starting Python, but for two."""
    start = subprocess.run

    def run(command, **how):
        script, *arguments = command[1:]
        if script in ("-m", "tools/benchmark/attention.py"):
            return start(command, **how)
        monkeypatch.chdir(how["cwd"])
        monkeypatch.setenv("DROPKEY_DATASETS", how["env"]["DROPKEY_DATASETS"])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            code = load_script(script.removesuffix(".py")).main(arguments)
        return subprocess.CompletedProcess(command, code, out.getvalue())

    monkeypatch.setattr(check.subprocess, "run", run)


@pytest.mark.slow
@pytest.mark.usefixtures("few_processes")
def test_all_of_it_on_a_cpu(check, capsys):
    assert check.main(["--device", "cpu"]) == 0, capsys.readouterr().out
    page = capsys.readouterr().out
    assert [line for line in page.splitlines() if line.startswith("#")] == PAGE
    assert "| training step | dropkey.yaml, bfloat16 |" in page
    assert "DropKey, this library" in page
    assert "AP by class" in page


def test_without_a_gpu_it_says_so(check, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert check.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: torch finds no CUDA device here")
    assert len(said.err.splitlines()) == 1


def test_a_part_that_fails_shows_its_end_and_the_others_go_on(check, capsys):
    many = "import sys; print(*range(100), sep='\\n'); sys.exit(3)"
    parts = [
        check.Part("Bad", ["-c", many], 60),
        check.Part("Slow", ["-c", "print(1, flush=True); import time; time.sleep(60)"], 1),
        check.Part("Good", ["-c", "print('| a |'); print('| b |')"], 60),
        check.Part("End", ["-c", "print(1); print(2)"], 60, lines=1),
    ]
    with mock.patch.object(check, "parts", lambda *_: parts):
        assert check.main(["--device", "cpu"]) == 1
    head, bad, slow, good, end = capsys.readouterr().out.split("\n## ")
    assert head.startswith("# GPU check\n\n")
    assert "**failed** with exit code 3\n\n```\n60\n" in bad
    assert "99\n```" in bad
    assert "**stopped** after 1 s\n\n```\n1\n```" in slow
    assert good.rstrip().endswith("\n\n| a |\n| b |")
    assert end.rstrip().endswith("\n\n```\n2\n```")


def test_no_part_goes_beyond_what_is_left(check, tmp_path):
    part = check.Part("Slow", [sys.executable], 60)
    with mock.patch.object(check.subprocess, "run") as run:
        run.return_value = mock.Mock(stdout="", returncode=0)
        for left, expected in ((100, 60), (7, 7), (-3, 0.1)):
            check.run(part, left, tmp_path)
            assert run.call_args.kwargs["timeout"] == expected


def test_what_a_gpu_would_be_asked(check, tmp_path):
    asked = [" ".join(part.command) for part in check.parts("cuda", "/detr", tmp_path)]
    assert "--reference /detr" in asked[1]
    assert all("cpu" not in command for command in asked)
    assert check.SECONDS < 480

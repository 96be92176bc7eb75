import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from projects.metro.humbi.files import NUM_VERTICES
from projects.metro.humbi.index import read_index
from tests.projects.metro.humbi_set import write_subject

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_humbi.py"


@pytest.fixture
def prepare(load_script, capsys):
    """Runs the script; returns exit status, what it printed, and its errors."""
    script = load_script("datasets/prepare_humbi")

    def run(*arguments):
        status = script.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def source(tmp_path):
    for subject in (1, 2, 5):
        write_subject(tmp_path / "humbi" / "Body_1_8", subject, [1], NUM_VERTICES)
    return tmp_path / "humbi"


def test_the_default_folder_is_below_the_dataset_root(prepare, source, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(source.parent))
    status, out, err = prepare("--num-workers", 0)
    assert (status, err) == (0, "")
    assert f"{source}/index.npz: 3 subjects, 6 cameras, 3 frames, 6 views" in out
    assert f"{source}/train_subjects.txt: 2 subjects" in out
    lists = [(source / f"{name}_subjects.txt").read_text().split() for name in ("train", "test")]
    assert sorted(lists[0] + lists[1]) == ["1", "2", "5"]
    assert len(read_index(source / "index.npz")) == 6


def test_lists_of_subjects(prepare, source, tmp_path):
    (tmp_path / "mine.txt").write_text("5\n")
    status, out, _ = prepare(source, "--num-workers", 0, "--test-subjects", tmp_path / "mine.txt")
    assert status == 0
    assert f"{source}/train_subjects.txt: 2 subjects" in out
    assert (source / "test_subjects.txt").read_text() == "5\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no"], "error: no such folder: "),
        (["."], "error: {here} has no <bundle>/subject_<id>/body"),
        (
            ["humbi", "--train-subjects", "no.txt"],
            "error: list of subjects not found: {here}/no.txt (set by --train-subjects)\n",
        ),
        (["humbi", "--test-subjects", "bytes.txt"], "error: {here}/bytes.txt is not a text file: "),
        (["humbi", "--num-workers", "-1"], "error: --num-workers and --check must be 0 or more"),
        (["humbi", "--check", "5", "--body", "no.npz"], "error: body model not found: "),
    ],
)
def test_errors_are_one_line(prepare, source, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    status, _, err = prepare(
        *arguments, *(() if "--num-workers" in arguments else ("--num-workers", 0))
    )
    assert status == 2
    assert err.startswith(message.format(here=tmp_path))
    assert err.count("\n") == 1


# The script, with a third subject whose mesh takes for ever to be read.
STUCK = """
import multiprocessing, runpy, sys, time
from projects.metro.humbi import files as humbi_files

read = humbi_files.read_vertices

def stuck(path, num_vertices):
    if "subject_5" in str(path):
        time.sleep(600)
    return read(path, num_vertices)

humbi_files.read_vertices = stuck
multiprocessing.set_start_method("fork")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_ctrl_c_leaves_parts_to_go_on_from(prepare, source):
    run = subprocess.Popen(
        [sys.executable, "-c", STUCK, SCRIPT, source, "--num-workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As in a terminal, also where the tests run in the background, which ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])},
    )
    parts = source / ".prepare_humbi"
    while run.poll() is None and len(list(parts.glob("*.npz"))) < 2:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does it
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err == "stopped; the same command goes on from here\n"
    assert not (source / "index.npz").exists()
    status, out, _ = prepare(source, "--num-workers", 0)
    assert status == 0
    assert "2/3 subjects were done before" in out
    assert len(read_index(source / "index.npz")) == 6

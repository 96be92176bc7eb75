"""``tools/benchmark_attention.py``: a table, a file and a picture from one command."""

import json

import pytest
import torch

from dropkey_core.analysis import attention_benchmark as benchmark


@pytest.fixture
def main(load_script, monkeypatch):
    tiny = benchmark.AttentionShape("tiny", 1, 2, 9, 4)
    monkeypatch.setattr(benchmark, "SHAPES", {"tiny": tiny, "other": tiny})
    return load_script("tools/benchmark_attention").main


def test_table_json_and_plot(main, tmp_path, capsys):
    files = ["--json", str(tmp_path / "new" / "a.json"), "--plot", str(tmp_path / "a.png")]
    threads = torch.get_num_threads()
    try:
        assert main(["--shapes", "tiny", "--threads", "1", "--repeats", "1", *files]) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| shape | attention | forward, ms | forward + backward, ms |")
    assert len(table) == 2 + 5 + 3
    rows = json.loads((tmp_path / "new" / "a.json").read_text())
    assert len(rows) == 2 * (5 + 3)
    assert {row["tokens"] for row in rows} == {9}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "huge"], "shape must be one of tiny, other, got 'huge'"),
        (["--dtype", "int8"], "dtype must be one of float32, float16, bfloat16, float64"),
        (["--repeats", "0"], "repeats must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--ratio", "1.5"], "drop_ratio must be in (0, 1), got 1.5"),
        (["--device", "tpu"], "--device must be cpu or cuda, got 'tpu'"),
        (["--plot", "a.xyz"], "a.xyz must end in one of"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(main, arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1

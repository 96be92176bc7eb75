"""``tools/benchmark_alignment.py``: table, JSON and plot from one command."""

import json

import pytest

SMALL = ["--num-keys", "20", "--samples", "30", "10", "--rows", "2", "--ratios", "0.5"]


@pytest.fixture
def main(load_script):
    return load_script("tools/benchmark_alignment").main


def test_one_command_makes_table_json_and_plot(main, tmp_path, capsys):
    json_file, plot_file = tmp_path / "a" / "b.json", tmp_path / "c" / "d.png"
    assert main([*SMALL, "--json", str(json_file), "--plot", str(plot_file)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("| keys | logits | ratio | exact, 1 node, float32 |")
    assert len([line for line in out if line.startswith("| ")]) == 1 + 2 * 3
    assert out[-2:] == [str(json_file), str(plot_file)]
    rows = json.loads(json_file.read_text())
    assert len(rows) == 2 * 3 * 5
    assert [row["effort"] for row in rows[:5]] == [1, 2, 3, 10, 30]
    assert rows[0]["case"] == {"num_keys": 12, "spikiness": 1, "drop_ratio": 0.5}
    assert plot_file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratios", "1.5"], "drop_ratio must be in [0, 1), got 1.5"),
        (["--plot", "a.xyz"], "a.xyz must end in one of"),
        (["--json", "/dev/null/a.json"], "cannot write /dev/null/a.json"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(main, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--num-keys", "--rows", "--samples", "--threads"])
def test_options_that_mean_nothing_are_refused(main, option, capsys):
    with pytest.raises(SystemExit) as caught:
        main([option, "0"])
    assert caught.value.code == 2
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err

import csv
from pathlib import Path

import cv2
import pytest
import torch

from dropkey_core.engine import instantiate, load_config
from dropkey_core.engine.paths import PROJECT_ROOT
from projects.paper.figures.corruptions import STRENGTHS

pytestmark = pytest.mark.slow

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

CONFIG = str(PROJECT_ROOT / "projects/classification/demo.yaml")
SMALL = ["model.architecture_options.depth=2", "dataset.test.per_class=2"]
SMALL += ["dataloader.test.batch_size=12"]


@pytest.fixture(scope="module")
def main(load_script):
    return load_script("tools/analyze").main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two runs on digits, as a training leaves them."""
    from omegaconf import OmegaConf

    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("none", "dropkey")):
        folder = root / name
        folder.mkdir()
        config = load_config(CONFIG, [*SMALL, f"train.output_dir={folder}"])
        torch.manual_seed(seed)
        model = instantiate(config.model, "model")
        torch.save({"model": model.state_dict()}, folder / "last.pth")
        OmegaConf.save(config, folder / "config.yaml")
    return [str(root / "none"), str(root / "dropkey")]


@pytest.fixture
def analyze(main, runs, tmp_path):
    def analyze(*words):
        code = main([words[0], "--runs", *runs, "--output", str(tmp_path), *map(str, words[1:])])
        assert code == 0
        with (tmp_path / f"{words[0]}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert cv2.imread(str(tmp_path / f"{words[0]}.png")).std() > 5
        return rows

    return analyze


def test_masks_need_no_model(main, tmp_path, capsys):
    arguments = ["--patterns", "key", "block:2", "--grid", "3x4", "--queries", "2"]
    assert main(["masks", *arguments, "--output", str(tmp_path / "new")]) == 0
    path = tmp_path / "new" / "masks.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.split() == [str(path.with_suffix(".csv")), str(path)]
    assert path.with_suffix(".csv").read_text().startswith("pattern,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patterns", "blok:2"], "pattern must be key, block:SIZE or cross:SIZE"),
        (["--drop-ratio", "1.5"], "drop_ratio must be in [0, 1), got 1.5"),
        (["--queries", "0"], "--queries must be at least 1 and at most the number of patches"),
    ],
)
def test_mistakes_about_masks_are_one_line_and_exit_2(main, arguments, message, capsys):
    assert main(["masks", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("grid", ["14", "0x3"])
def test_grids_of_masks_that_mean_nothing_are_refused(main, grid):
    with pytest.raises(SystemExit) as caught:
        main(["masks", "--grid", grid])
    assert caught.value.code == 2


def test_entropy(analyze, runs, tmp_path):
    rows = analyze("entropy")
    assert [(row["label"], row["layer"]) for row in rows] == [
        (label, layer) for label in ("none", "dropkey") for layer in "01"
    ]
    assert all(0 < float(row["mean"]) <= float(row["greatest"]) for row in rows)
    assert rows[0]["run"] == runs[0] and rows[0]["num_values"] == str(20 * 4)
    assert not list(Path(runs[0]).glob("predictions.csv"))


def test_repetitions_of_one_label(analyze):
    rows = analyze("entropy", "--labels", "same", "same", "--num-images", 3)
    assert {row["label"] for row in rows} == {"same"}
    assert {row["num_values"] for row in rows} == {str(3 * 4)}


def test_occlusion(analyze, runs):
    rows = analyze("occlusion", "--ratios", 0, 0.5, "--draws", 2)
    assert [(row["ratio"], row["draw"]) for row in rows[:4]] == [
        *[("0", "0"), ("0", "1")],
        *[("0.5", "0"), ("0.5", "1")],
    ]
    assert {row["run"] for row in rows[:4]} == {runs[0]}
    assert rows[0]["cls/loss"] == rows[1]["cls/loss"] != rows[2]["cls/loss"] != rows[3]["cls/loss"]


def test_similarity(analyze):
    rows = analyze("similarity")
    assert len(rows) == 2 * 2 * 2
    assert float(rows[0]["similarity"]) == 1
    assert 0 < float(rows[1]["similarity"]) < 1


def test_maps(analyze):
    rows = analyze("maps", "--num-images", 2)
    assert len(rows) == 2 * 2 * 2 * 4 * 16  # runs, images, layers, heads, patches
    assert {row["row"] for row in rows} == {row["column"] for row in rows} == set("0123")


def test_focus_under_corruption(analyze, tmp_path):
    rows = analyze("focus", "--severities", 5, "--top", 3)
    assert len(rows) == 2 * (1 + len(STRENGTHS)) * 2
    shares = {
        (row["corruption"], row["layer"]): row["mean"] for row in rows if "none" in row["run"]
    }
    assert shares["clean", "1"] != shares["noise", "1"]
    for name in ("focus_corrupted", "focus_accuracy"):
        assert cv2.imread(str(tmp_path / f"{name}.png")).std() > 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["entropy", "--runs", "no"], "no is no folder of a run"),
        (["entropy", "--runs", "RUNS", "--labels", "a"], "2 runs, 1 labels"),
        (["entropy", "--runs", "RUNS", "--num-images", "0"], "--num-images must be at least 1"),
        (["occlusion", "--runs", "RUNS", "--ratios", "1"], "ratio must be in [0, 1), got 1"),
        (["occlusion", "--runs", "RUNS", "--metric", "AP"], "--metric must be one of cls/top1"),
        (["maps", "--runs", "RUNS", "--layers", "9"], "none has no layer 9; it has 0, 1"),
        (["maps", "--runs", "RUNS", "--head", "4"], "none has heads 0 to 3 in layer 0, not 4"),
        (["focus", "--runs", "RUNS", "--top", "0"], "top must be at least 1, got 0"),
        (["focus", "--runs", "RUNS", "--corruptions", "fog"], "corruption must be one of noise"),
        (
            ["focus", "--runs", "RUNS", "--layer", "9", "--severities", "1"],
            "--layer must be one of",
        ),
    ],
)
def test_a_users_errors_are_one_line(main, runs, tmp_path, capsys, words, message):
    words = [word for w in words for word in (runs if w == "RUNS" else [w])]
    assert main([*words, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_selection_is_random_and_always_the_same(runs):
    from projects.paper.figures.trained import find_sources, load_trained

    (source,) = find_sources([Path(runs[0])], None, ["dataset.test.per_class=null"])
    trained = load_trained(source)
    chosen = [[s["image_id"] for batch in trained.batches(12) for s in batch] for _ in "ab"]
    assert chosen[0] == chosen[1] == sorted(set(chosen[0]))
    steps = {b - a for a, b in zip(chosen[0], chosen[0][1:], strict=False)}
    assert len(chosen[0]) == 12 and len(steps) > 3  # every n-th may be of one class

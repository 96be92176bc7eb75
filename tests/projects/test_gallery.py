"""``tools/visualize.py`` and ``tools/predict.py --format`` with each demo's model, untrained."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dropkey_core.engine import instantiate, load_config
from dropkey_core.engine.paths import PROJECT_ROOT, dataset_path
from tests.projects.small_runs import small_overrides

pytestmark = pytest.mark.slow

PROJECTS = ("detr", "qpic", "metro", "classification")
VIEWS = [f"subject_2_frame_{frame}_camera_{camera}" for frame in (1, 2) for camera in (0, 7)]
SIZES = {  # height and width of the page about two images
    "detr": (84 + 330 + 16, 16 + 2 * 456),
    "qpic": (84 + 330 + 16, 16 + 2 * 456),
    "metro": (2 * (60 + 320 + 16), 16 + 5 * 336),
    "classification": (50 + 240 + 16, 900),
}


@pytest.fixture(scope="module")
def main(load_script):
    return load_script("tools/visualize").main


@pytest.fixture
def make_run(small_sets, tmp_path):
    """Makes the folder of a demo's run."""

    def make(project, name="run", seed=0):
        path = PROJECT_ROOT / f"projects/{project}/demo.yaml"
        config = load_config(path, [*small_overrides(path), f"train.output_dir={tmp_path / name}"])
        torch.manual_seed(seed)
        model = instantiate(config.model, "model")
        if project == "metro":
            torch.nn.init.constant_(model.camera_head.output.bias, 0.5)  # somebody is in view
        (tmp_path / name).mkdir()
        torch.save({"model": model.state_dict()}, tmp_path / name / "last.pth")
        OmegaConf.save(config, tmp_path / name / "config.yaml", resolve=True)
        return name

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("project", PROJECTS)
def test_each_image_of_the_test_set_and_a_page(project, main, make_run, tmp_path, capsys):
    run = make_run(project)
    assert main(["--model", run, "--num-images", "2"]) == 0
    *images, page = names(tmp_path / run / "pictures")
    assert len(images) == 2 and page == "validation.png"
    if project == "metro":
        assert images == [f"{VIEWS[n]}.png" for n in (0, 2)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].startswith("2 of ") and lines[-1] == "run/pictures/validation.png"
    drawn = cv2.imread(str(tmp_path / run / "pictures" / page))
    assert abs(np.subtract(drawn.shape[:2], SIZES[project])).max() <= 120  # images differ in size
    assert drawn.std() > 5


def test_a_test_set_of_other_classes_is_refused(main, make_run, tmp_path, capsys):
    """Its names would stand at the model's boxes."""
    run = make_run("detr")
    config = OmegaConf.load(tmp_path / run / "config.yaml")
    document = json.loads(dataset_path(config.dataset.test.annotations).read_text())
    last = document["categories"].pop()["id"]
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] != last]
    (tmp_path / "fewer.json").write_text(json.dumps(document))
    settings = [
        "dataloader.test.dataset.annotations=fewer.json",
        "dataloader.evaluator.annotations=fewer.json",
        "dataloader.evaluator.same_categories_as=fewer.json",
    ]
    config_file = str(tmp_path / run / "config.yaml")
    assert main(["--model", run, "--config", config_file, *settings]) == 2
    assert "run tells 3 classes apart, the test set has 2: draw on it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("project", "words", "columns"),
    [
        ("detr", ["0.3,0.5", "0.7,0.5"], [3]),
        ("detr", [], range(2, 6)),  # as many as an untrained model finds apart
        ("qpic", ["--score-threshold", "0"], range(2, 6)),
        ("metro", ["L_Knee", "R_Hip"], [3]),
    ],
)
def test_where_a_model_looks(project, words, columns, main, make_run, tmp_path):
    run = make_run(project)
    cv2.imwrite("mine.png", np.full((60, 80, 3), 90, np.uint8))
    command = ["--model", run, "--attention", *words, "--output", "out"]
    assert main([*command, "--input", "mine.png", "train.seed=3"]) == 0
    assert names(tmp_path / "out") == ["attention.png", "mine_attention.png"]
    cell = 336 if project == "metro" else 456
    width = cv2.imread("out/mine_attention.png").shape[1]
    assert width in [16 + count * cell for count in columns]


def test_attention_of_several_models_is_side_by_side(main, make_run, tmp_path):
    runs = [make_run("metro", name, seed) for seed, name in enumerate(("none", "dropkey"))]
    assert main(["--model", *runs, "--attention", "--num-images", "2"]) == 0
    chosen = [f"{VIEWS[n]}_attention.png" for n in (0, 2)]
    assert names(tmp_path / "none" / "pictures") == ["attention.png", *chosen]
    page = cv2.imread("none/pictures/attention.png")
    assert page.shape == (114 + 2 * (30 + 320 + 16), 16 + 3 * 336, 3)
    first, second = (page[144 : 144 + 320, 16 + n * 336 :][:, :320] for n in (1, 2))
    assert (first != second).any()


def test_meshes_of_the_test_set_as_files(main, make_run, tmp_path):
    pytest.importorskip("trimesh", reason="it writes pages and mesh files")
    run = make_run("metro")
    assert main(["--model", run, "--num-images", "1", "--files", "html", "obj"]) == 0
    written = [f"{VIEWS[0]}.{kind}" for kind in ("html", "obj", "png")]
    assert names(tmp_path / run / "pictures") == [*written, "validation.png"]


@pytest.mark.parametrize(("project", "kind"), [("metro", "html"), ("classification", "jpg")])
def test_predictions_as_other_files(project, kind, load_script, make_run, tmp_path):
    pytest.importorskip("trimesh", reason="it writes pages")
    run = make_run(project)
    cv2.imwrite("mine.png", np.full((60, 80, 3), 90, np.uint8))
    command = ["--model", run, "--input", "mine.png", "--output", "out"]
    command += [*(["--detector", "none"] if project == "metro" else []), "--format"]
    assert load_script("tools/predict").main([*command, kind]) == 0
    assert (tmp_path / "out" / f"mine_found.{kind}").stat().st_size > 1000
    assert load_script("tools/predict").main([*command, "glb"]) == (0 if project == "metro" else 2)


def test_missing_trimesh_is_told_before_any_work(main, make_run, capsys, monkeypatch):
    run = make_run("metro")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    assert main(["--model", run, "--files", "glb"]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "error: writing meshes and pages needs trimesh: pip install -e '.[mesh]'\n"
    )
    assert " images" not in captured.out


@pytest.mark.parametrize(
    ("project", "arguments", "message"),
    [
        ("detr", ["--num-images", "0"], "--num-images must be at least 1, got 0"),
        ("detr", ["--score-threshold", "50"], "--score-threshold must be in [0, 1], got 50.0"),
        ("detr", ["--input", "a.png"], "several --model and --input are for --attention"),
        ("detr", ["--files", "glb"], "--files is for METRO's meshes, not for DETR"),
        ("detr", ["--attention", "0.5,1.5"],
         "--attention takes fractions of width and height in [0, 1], got 0.5,1.5"),
        ("detr", ["--attention", "a.jpg"], "--attention takes points such as 0.3,0.5, got a.jpg"),
        ("detr", ["--attention", "--input", "no.jpg"], "no.jpg cannot be read"),
        ("detr", ["--output", "run/last.pth"], "cannot write run/last.pth: File exists"),
        ("detr", ["model.widht=3"], "unknown key 'model.widht'"),
        ("qpic", ["--attention", "0.5,0.5"], "--attention takes no words for QPIC"),
        ("metro", ["--attention", "Wrist"], "--attention takes one of R_Ankle, R_Knee, R_Hip, "),
        ("metro", ["--score-threshold", "0.5"], "--score-threshold is not for METRO"),
        ("classification", ["--attention"], "--attention is for DETR, QPIC or METRO"),
    ],
)  # fmt: skip
def test_user_error_is_one_line_and_exit_2(project, arguments, message, main, make_run, capsys):
    run = make_run(project)
    assert main(["--model", run, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_a_checkpoint_alone_needs_an_output_and_a_test_set(main, make_run, capsys):
    run = make_run("detr")
    assert main(["--model", "rum"]) == 2
    assert "no checkpoint at rum" in capsys.readouterr().err  # rather than that it is no folder
    text = Path(run, "config.yaml").read_text()
    torch.save(torch.load(f"{run}/last.pth") | {"config": text}, f"{run}/last.pth")
    assert main(["--model", f"{run}/last.pth"]) == 2
    assert "give --output FOLDER: run/last.pth is no folder of a run" in capsys.readouterr().err
    command = ["--model", f"{run}/last.pth", "--output", "out"]
    assert main(command) == 2
    assert "names no dataloader.test.dataset: give --config FILE" in capsys.readouterr().err
    assert main([*command, "--config", f"{run}/config.yaml"]) == 0

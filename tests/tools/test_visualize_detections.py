import json

import cv2
import numpy as np
import pytest
import torch

from dropkey_core.engine import instantiate, load_config
from dropkey_core.engine.paths import PROJECT_ROOT

pytestmark = pytest.mark.slow

CONFIG = "projects/detr/demo.yaml"


def write_set(folder, num_images=5):
    """Grey images with one object each, and a crowd in the first."""
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number in range(num_images):
        cv2.imwrite(str(folder / "val" / f"{number}.png"), np.full((40, 60, 3), 90, np.uint8))
        entry = {"id": number, "file_name": f"{number}.png", "height": 40, "width": 60}
        images.append(entry)
        box = {"image_id": number, "category_id": 7, "bbox": [10, 5, 30, 20]}
        annotations.append({**box, "id": number, "iscrowd": int(number == 0)})
    names = {1: "apple", 3: "pear", 7: "plum"}
    categories = [{"id": key, "name": name} for key, name in names.items()]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))


def write_weights(path, num_classes):
    config = load_config(CONFIG)
    config.model.num_classes = num_classes
    torch.manual_seed(0)
    torch.save({"model": instantiate(config.model, "model").state_dict()}, path)


@pytest.fixture
def main(load_script):
    return load_script("tools/visualize_detections").main


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working folder with a set, a folder of a run, and weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    write_set(tmp_path / "shapes")
    (tmp_path / "run").mkdir()
    text = (PROJECT_ROOT / CONFIG).read_text()
    (tmp_path / "run" / "config.yaml").write_text(text)
    write_weights(tmp_path / "run" / "last.pth", 3)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pictures_of_the_test_set_and_a_page(main, workplace, capsys):
    assert main(["--run", "run", "--num-images", "2"]) == 0
    written = names(workplace / "run" / "pictures")
    assert written == ["0_boxes.png", "2_boxes.png", "validation.png"]
    lines = capsys.readouterr().out.splitlines()
    assert "2 of 5 images, detections with a score of 0.5 or more" in lines
    assert lines[-1] == str(workplace / "run" / "pictures" / "validation.png")
    assert cv2.imread(str(workplace / "run/pictures/0_boxes.png")).shape == (533, 800, 3)


def test_any_images_without_the_dataset(main, workplace, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(workplace / "nowhere"))
    (workplace / "mine").mkdir()
    cv2.imwrite("mine/0.png", np.zeros((30, 20, 3), np.uint8))
    write_weights("coco.pth", 91)
    command = ["--config", CONFIG, "--weights", "coco.pth", "--output", "out"]
    command += ["--attention", "0.3,0.5", "--images", "shapes/val/0.png", "mine"]
    assert main([*command, "model.drop_ratio=0.0"]) == 0  # an override after a list
    assert names(workplace / "out") == [
        "0_2_attention.png",
        "0_2_boxes.png",
        "0_attention.png",
        "0_boxes.png",
        "detections.png",
    ]


def test_attention_from_the_surest_detections(main, workplace):
    assert main(["--run", "run", "--num-images", "1", "--attention"]) == 0
    assert (workplace / "run" / "pictures" / "0_attention.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to show: give --run FOLDER, or --config FILE --weights FILE"),
        (["--run", "run", "--weights", "no.pth"], "no model 'no.pth': neither a published name"),
        (["--run", "run", "--weights", "other.pth"],
         "other.pth is no checkpoint of DETR: it has no class_embed.weight"),
        (["--run", "run", "--attention", "0.5,1.5"],
         "--attention takes fractions of width and height in [0, 1], got 0.5,1.5"),
        (["--run", "run", "--attention", "a.jpg"],
         "--attention takes points such as 0.3,0.5, got a.jpg"),
        (["--run", "run", "--num-images", "0"], "--num-images must be at least 1, got 0"),
        (["--run", "run", "--score-threshold", "50"],
         "--score-threshold must be in [0, 1], got 50.0"),
        (["--run", "run", "--images", "no.jpg"], "--images: no file or folder no.jpg"),
        (["--run", "run", "--images", "other.pth"],
         "other.pth cannot be read as an image of kind JPEG"),
        (["--run", "run", "--output", "other.pth"],
         "cannot write other.pth: File exists"),
        (["--run", "run", "model.widht=3"], "unknown key 'model.widht'"),
        (["--run", "run", "--images", "bare"], "nothing to show: no images in bare (looked for"),
    ],
)  # fmt: skip
def test_user_error_is_one_line_and_exit_2(main, workplace, capsys, arguments, message):
    (workplace / "bare").mkdir()
    torch.save({"model": {"weight": torch.zeros(1)}}, "other.pth")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(workplace)}")
    assert error.count("\n") == 1

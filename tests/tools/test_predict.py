import json
import os
import threading

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO

from dropkey_core.engine import instantiate, load_config
from dropkey_core.engine.files.video import read_frames, video_writer
from tests.projects.metro.conftest import SMALL as SMALL_METRO
from tests.projects.metro.conftest import small_metro, toy_body, toy_body_file  # noqa: F401

SMALL = ["model.embed_dim=16", "model.ffn_dim=16", "model.num_encoder_layers=1"]
SMALL += ["model.num_decoder_layers=1", "model.num_queries=4", "model.backbone_stages=1"]
SMALL += ["dataloader.test.mapper.min_sizes=[32]", "dataloader.test.mapper.max_size=48"]
OF_DETR = ["model.num_classes=3", "model.backbone_top_down=0"]
OF_QPIC = ["model.num_object_classes=3", "model.num_verb_classes=4"]


def write_checkpoint(path, config_path, overrides):
    """A small random model, with its config as a training leaves it."""
    config = load_config(config_path, overrides)
    torch.manual_seed(0)
    content = {"model": instantiate(config.model, "model").state_dict()}
    torch.save({**content, "config": OmegaConf.to_yaml(config)}, path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "detr.pth", "projects/detr/demo.yaml", [*SMALL, *OF_DETR])
    write_checkpoint(folder / "qpic.pth", "projects/qpic/demo.yaml", [*SMALL, *OF_QPIC])
    write_checkpoint(folder / "digits.pth", "projects/classification/demo.yaml", [])
    return folder


@pytest.fixture(scope="module")
def main(load_script):
    return load_script("tools/predict").main


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working folder with three pictures, of which two have numbers for names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for name, size in (("000012", (30, 50)), ("000007", (50, 30))):
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), pixels)
    cv2.imwrite(str(tmp_path / "mine.png"), np.full((20, 20, 3), 90, np.uint8))
    return tmp_path


def write_clip(path, num_frames, size=(40, 30)):
    pytest.importorskip("av", reason="it writes videos")
    with video_writer(path) as add:
        for number in range(num_frames):
            add(Image.new("RGB", size, (number % 256, 90, 30)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read(path):
    return json.loads(path.read_text())


# ---- pictures ------------------------------------------------------------------------------------
def test_detections_are_cocos_results_and_pictures(main, models, workplace, capsys):
    command = ["--model", str(models / "detr.pth"), "--input", "photos", "--output", "out"]
    assert main([*command, "--score-threshold", "0", "--batch-size", "2"]) == 0
    *_, counted, said = lines = capsys.readouterr().out.splitlines()
    assert counted == "objects with a score of 0 or more (--score-threshold): 8"
    file = workplace / "shapes" / "annotations" / "instances_val.json"
    missing = f"warning: no {file}: what is found is called class 0"
    assert sum(line.startswith(missing) for line in lines) == 1
    assert said.startswith("2 pictures in ") and said.endswith(" a second: out")
    found = ["000007_found.png", "000012_found.png", "detections.json", "images.json"]
    assert names(workplace / "out") == found
    coco = COCO(workplace / "out" / "images.json")
    assert [(one["id"], one["width"], one["height"]) for one in coco.dataset["images"]] == [
        (7, 30, 50),
        (12, 50, 30),
    ]
    results = coco.loadRes(str(workplace / "out" / "detections.json"))
    assert len(results.anns) == 2 * 4  # one for each query
    assert {one["name"] for one in coco.dataset["categories"]} == {f"class {n}" for n in range(3)}
    assert cv2.imread("out/000012_found.png").shape == (480, 800, 3)


def test_nothing_found_is_said(main, models, workplace, capsys):
    command = ["--model", str(models / "detr.pth"), "--input", "mine.png", "--output", "out"]
    assert main([*command, "--json-only", "--score-threshold", "1"]) == 0
    *_, counted, said = capsys.readouterr().out.splitlines()
    assert counted == "objects with a score of 1 or more (--score-threshold): 0"
    assert said.startswith("1 picture in ")


def test_image_ids_count_where_names_are_no_numbers(main, models, workplace):
    command = ["--model", str(models / "detr.pth"), "--input", "mine.png", "photos"]
    assert main([*command, "--output", "out", "--json-only"]) == 0
    assert [one["id"] for one in read(workplace / "out" / "images.json")["images"]] == [1, 2, 3]
    assert names(workplace / "out") == ["detections.json", "images.json"]


def test_interactions_are_one_entry_each(main, models, workplace, capsys):
    command = ["--model", str(models / "qpic.pth"), "--input", "mine.png", "--output", "out"]
    assert main([*command, "--score-threshold", "0"]) == 0
    file = workplace / "interactions" / "annotations" / "classes.json"
    missing = f"warning: no {file}: what is found is called object 0"
    assert missing in capsys.readouterr().out
    assert names(workplace / "out") == ["images.json", "interactions.json", "mine_found.png"]
    found = read(workplace / "out" / "interactions.json")
    assert len(found) == 4 * 4
    assert list(found[0]) == ["image_id", "human_bbox", "object_bbox", "object", "verb", "score"]
    assert found[0]["verb"].startswith("verb ") and found[0]["score"] >= found[1]["score"]


def test_classes_with_scores(main, models, workplace, capsys):
    command = ["--model", str(models / "digits.pth"), "--input", "photos", "--output", "out"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "classes: 10"
    first, _ = read(workplace / "out" / "classes.json")
    assert (first["image_id"], first["file_name"]) == (7, "photos/000007.png")
    assert len(first["scores"]) == len(first["names"]) == 5


def test_people_are_found_by_a_detector(main, workplace, request, capsys):
    """Five of them: each query of this DETR is sure of a person, COCO's class 1."""
    settings = [*OF_DETR, "model.num_classes=91", "model.num_queries=5"]
    write_checkpoint(workplace / "detr.pth", "projects/detr/demo.yaml", [*SMALL, *settings])
    content = torch.load(workplace / "detr.pth")
    content["model"]["class_embed.weight"].zero_()
    content["model"]["class_embed.bias"].copy_(1.0 * (torch.arange(92) == 1))
    torch.save(content, workplace / "detr.pth")
    body_file, metro = map(request.getfixturevalue, ("toy_body_file", "small_metro"))
    overrides = [f"dataset.body={body_file}"]
    overrides += [f"model.{name}={value}" for name, value in SMALL_METRO.items()]
    config = OmegaConf.to_yaml(load_config("projects/metro/dropkey.yaml", overrides))
    torch.save({"model": metro().state_dict(), "config": config}, workplace / "metro.pth")
    command = ["--model", "metro.pth", "--input", "photos", "--output", "out"]
    assert main([*command, "--detector", "detr.pth", "--batch-size", "2"]) == 0
    found = read(workplace / "out" / "bodies.json")
    assert [len(one["vertices"]) for one in found] == [5, 5]
    assert len(found[0]["vertices"][0]) == 60 and len(found[0]["joints_3d"][0]) == 14
    assert len(found[0]["cameras"][0]) == len(found[0]["squares"][0]) == 3
    assert cv2.imread("out/000012_found.png").shape == (480, 800, 3)
    sure = [*command, "--detector", "detr.pth", "--json-only", "--score-threshold"]
    assert main([*sure, "0.9"]) == 0
    assert [one["vertices"] for one in read(workplace / "out" / "bodies.json")] == [[], []]
    said = "people with a score of 0.9 or more (--score-threshold): 0"
    assert said in capsys.readouterr().out
    assert main([*command, "--detector", "none"]) == 0
    found = read(workplace / "out" / "bodies.json")
    assert [one["squares"] for one in found] == [[[-10, 0, 50]], [[0, -10, 50]]]


def test_bad_files_are_told_and_left_out(main, models, workplace, capsys):
    (workplace / "photos" / "a.jpg").write_text("no picture")
    (workplace / "photos" / "._b.jpg").write_text("of macOS")
    (workplace / "photos" / ".DS_Store").write_text("of macOS")
    (workplace / "photos" / "c.mp4").write_text("no video")
    command = ["--model", str(models / "detr.pth"), "--input", "photos", "no.png"]
    assert main([*command, "--output", "out", "--json-only"]) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [line.split()[2] for line in told] == ["photos/a.jpg", "no.png", "photos/c.mp4"]
    assert len(read(workplace / "out" / "images.json")["images"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "no.png"], "no.png cannot be read: No such file"),
        (["--input", "empty"], "no pictures in empty (looked for"),
        (["--input", "mine.png", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--input", "mine.png", "--score-threshold", "7"], "score_threshold must be in [0, 1]"),
        (["--input", "mine.png", "--device", "gpu"],
         "device must be one of cuda, mps, cpu, got 'gpu'"),
        (["--input", "mine.png", "--model", "detr-r5"],
         "no checkpoint at detr-r5 (from --model): neither"),
        (["--input", "mine.png", "--model", "bare.pth"], "bare.pth does not say which model"),
        (["--input", "mine.png", "--detector", "x"], "detector is not for DETR"),
        (["--input", "mine.png", "model.widht=3"], "unknown key 'model.widht'"),
        (["--input", "mine.png", "--model", "{models}/digits.pth", "--score-threshold", "0.5"],
         "--score-threshold is not for a classifier, but for DETR, QPIC, and METRO with "),
        (["--input", "mine.png", "--output", "mine.png", "--model", "none"],
         "cannot write mine.png: File exists"),
    ],
)  # fmt: skip
def test_user_error_is_one_line_and_exit_2(main, models, workplace, capsys, arguments, message):
    (workplace / "empty").mkdir()
    torch.save({"model": {"class_embed.weight": torch.zeros(4, 16)}}, "bare.pth")
    given = [word.format(models=models) for word in arguments]
    assert main(["--model", str(models / "detr.pth"), "--output", "out", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not (workplace / "out" / "images.json").exists()


def test_results_of_another_model_are_not_mixed(main, models, workplace, capsys):
    (workplace / "out").mkdir()
    (workplace / "out" / "classes.json").write_text("[]")
    command = ["--model", str(models / "detr.pth"), "--input", "mine.png", "--output", "out"]
    assert main(command) == 2
    told = "error: out has the classes.json of another model: name another --output\n"
    assert capsys.readouterr().err == told and names(workplace / "out") == ["classes.json"]


# ---- videos --------------------------------------------------------------------------------------
def test_a_video_gives_a_video(main, models, workplace):
    write_clip(workplace / "clip.mp4", 5)
    command = ["--model", str(models / "detr.pth"), "--input", "clip.mp4", "mine.png"]
    assert main([*command, "--output", "out", "--batch-size", "2"]) == 0
    assert [one["file_name"] for one in read(workplace / "out" / "images.json")["images"]] == [
        "mine.png",
        *["clip.mp4"] * 5,
    ]
    frames = list(read_frames(workplace / "out" / "clip_found.mp4"))
    assert [frame.shape for frame in frames] == [(3, 600, 800)] * 5


def test_a_camera_is_followed_until_it_is_interrupted(main, models, workplace, monkeypatch):
    pytest.importorskip("av", reason="it writes videos")

    def seen(number):
        for _ in range(3):
            yield torch.full((3, 30, 40), 90, dtype=torch.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr("dropkey_core.engine.files.inputs.read_camera", seen)
    command = ["--model", str(models / "detr.pth"), "--input", "0", "--output", "out"]
    assert main(command) == 0
    assert len(read(workplace / "out" / "images.json")["images"]) == 3
    assert len(list(read_frames(workplace / "out" / "camera_0_found.mp4"))) == 3


def resident():
    """Megabytes of memory that this process takes."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from Linux")  # noqa: PTH110
def test_memory_stays_flat_over_ten_thousand_pictures(main, models, workplace):
    """Decoded and kept they would take 10,000 x 96 x 64 x 3 = 184 MB."""
    write_clip(workplace / "clip.mp4", 10_000, size=(96, 64))
    samples, done = [], threading.Event()

    def sample():
        while not done.wait(0.05):
            samples.append(resident())

    watch = threading.Thread(target=sample)
    watch.start()
    command = ["--model", str(models / "detr.pth"), "--input", "clip.mp4", "--output", "out"]
    try:
        assert main([*command, "--json-only", "--batch-size", "16"]) == 0
    finally:
        done.set()
        watch.join()
    assert len(read(workplace / "out" / "images.json")["images"]) == 10_000
    quarter = len(samples) // 4
    assert max(samples[-quarter:]) - max(samples[quarter : 2 * quarter]) < 20, samples

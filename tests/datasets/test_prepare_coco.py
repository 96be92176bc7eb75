import json
import re
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def prepare_coco(load_script, monkeypatch):
    """The script, for a COCO of 2 + 1 images that needs no space."""
    script = load_script("datasets/prepare_coco")
    tiny = {"train": script.Split("train2017", 2, 1e-5), "val": script.Split("val2017", 1, 1e-5)}
    monkeypatch.setattr(script, "SPLITS", tiny)
    monkeypatch.setattr(script, "ANNOTATION_GIGABYTES", 1e-5)
    return script


@pytest.fixture
def mirror(tmp_path, prepare_coco):
    """Archives laid out as on COCO's server; returns the folder."""
    folder = tmp_path / "mirror"
    (folder / "zips").mkdir(parents=True)
    (folder / "annotations").mkdir()
    image = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with zipfile.ZipFile(folder / "annotations" / "annotations_trainval2017.zip", "w") as labels:
        for split in prepare_coco.SPLITS.values():
            names = [f"{number:012d}.jpg" for number in range(split.num_images)]
            with zipfile.ZipFile(folder / "zips" / f"{split.name}.zip", "w") as archive:
                for name in names:
                    archive.writestr(f"{split.name}/{name}", image)
            document = {
                "categories": [{"id": 1, "name": "thing"}],
                "images": [
                    {"id": number, "file_name": name, "height": 8, "width": 8}
                    for number, name in enumerate(names)
                ],
                "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 4, 4]}],
            }
            labels.writestr(f"annotations/instances_{split.name}.json", json.dumps(document))
    return folder


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def run(prepare_coco, mirror):
    """Calls the script with the address of a server for ``mirror``; returns its exit status."""
    handler = partial(QuietHandler, directory=str(mirror))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield lambda output, *more: prepare_coco.main(
            ["--output", str(output), "--url", url, *more]
        )
        server.shutdown()


def test_everything_is_fetched_unpacked_and_checked(run, tmp_path, capsys):
    output = tmp_path / "coco"
    assert run(output) == 0
    assert sorted(path.name for path in output.iterdir()) == ["annotations", "train2017", "val2017"]
    printed = capsys.readouterr().out
    assert f"{output}/train2017: complete, 2 images with 1 boxes" in printed
    assert f"{output}/val2017: complete, 1 images" in printed


def test_what_is_there_is_not_fetched_again(run, mirror, tmp_path, capsys):
    output = tmp_path / "coco"
    run(output, "--splits", "val")
    assert not (output / "train2017").exists()
    capsys.readouterr()
    (mirror / "zips" / "val2017.zip").unlink()
    assert run(output) == 0
    assert capsys.readouterr().out.count("fetching") == 1  # the training images


def test_an_archive_fetched_by_other_means_is_used(run, mirror, tmp_path):
    output = tmp_path / "coco"
    output.mkdir()
    (mirror / "zips" / "train2017.zip").rename(output / "train2017.zip")
    assert run(output) == 0
    assert len(list((output / "train2017").iterdir())) == 2
    assert not (output / "train2017.zip").exists()


def test_check_only_names_what_is_missing_and_fetches_nothing(run, tmp_path, capsys):
    output = tmp_path / "coco"
    assert run(output, "--check-only") == 2
    assert f"annotation file not found: {output}/annotations/" in capsys.readouterr().err
    assert not output.exists()
    run(output)
    (output / "train2017" / "000000000001.jpg").unlink()
    assert run(output, "--check-only") == 2
    assert "1 of the 2 images" in capsys.readouterr().err


def test_another_number_of_images_is_refused(run, prepare_coco, tmp_path, capsys, monkeypatch):
    output = tmp_path / "coco"
    run(output)
    monkeypatch.setitem(prepare_coco.SPLITS, "val", prepare_coco.Split("val2017", 5000, 0))
    assert run(output, "--check-only") == 2
    assert "lists 1 images, COCO's val2017 has 5000" in capsys.readouterr().err


def cut_off(archive):
    archive.write_bytes(archive.read_bytes()[:-30])


def damage(archive):
    content = bytearray(archive.read_bytes())
    content[200] ^= 255  # within the first image
    archive.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message", "left"),
    [
        (Path.unlink, r"could not fetch http://\S+/zips/train2017\.zip: HTTP Error 404", []),
        (cut_off, "train2017.zip broke off; call again", []),
        (damage, "coco/train2017.zip is damaged", ["train2017.zip"]),
    ],
)
def test_an_archive_that_cannot_be_used(run, mirror, tmp_path, capsys, spoil, message, left):
    spoil(mirror / "zips" / "train2017.zip")
    output = tmp_path / "coco"
    assert run(output) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in output.iterdir()] == left


def test_a_full_disk_is_told_before_fetching(run, prepare_coco, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(prepare_coco.SPLITS, "train", prepare_coco.Split("train2017", 2, 1e9))
    assert run(tmp_path / "coco") == 2
    assert "GB free, 1000000000.0 GB are needed" in capsys.readouterr().err

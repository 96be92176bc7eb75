import json
import zipfile

import cv2
import numpy as np
import pytest

XML = """<annotation><size><width>8</width><height>8</height></size><object><name>{}</name>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>5</ymax></bndbox></object></annotation>"""


@pytest.fixture
def prepare_bccd(load_script, monkeypatch):
    """The script, for a BCCD of 2 + 1 images, one with a box without area."""
    script = load_script("datasets/prepare_bccd")
    monkeypatch.setattr(script, "KNOWN", {"train.json": (2, 1), "test.json": (1, 1)})
    return script


def write_archive(path, top="BCCD_Dataset-0123/BCCD"):
    image = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    objects = {"a": ("WBC", 5), "b": ("RBC", 1), "c": ("Platelets", 4)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in objects.items():
            archive.writestr(f"{top}/Annotations/{name}.xml", XML.format(*values))
            archive.writestr(f"{top}/JPEGImages/{name}.jpg", image)
        archive.writestr(f"{top}/ImageSets/Main/trainval.txt", "a\nb\n")
        archive.writestr(f"{top}/ImageSets/Main/test.txt", "c\n")


@pytest.fixture
def run(prepare_bccd, tmp_path):
    """Calls the script with the address of an archive that lies in the output folder."""
    output = tmp_path / "bccd"
    output.mkdir()

    def call(*more):
        url = "http://127.0.0.1:9/0123.zip"  # where nobody listens
        return prepare_bccd.main(["--output", str(output), "--url", url, *more])

    return output, call


def test_the_archive_becomes_a_set(run, capsys):
    output, call = run
    write_archive(output / "0123.zip")
    assert call() == 0
    assert sorted(path.name for path in output.iterdir()) == ["images", "test.json", "train.json"]
    said = capsys.readouterr().out
    assert f"{output}/train.json: complete, 2 images with 1 boxes" in said
    assert f"{output}/test.json: complete, 1 images with 1 boxes" in said
    document = json.loads((output / "train.json").read_text())
    names = {item["id"]: item["name"] for item in document["categories"]}
    assert names == {1: "RBC", 2: "WBC", 3: "Platelets"}
    assert [item["category_id"] for item in document["annotations"]] == [2]
    assert call() == 0  # nothing is fetched again


def test_what_cannot_be_fetched_or_is_another_set(run, capsys):
    output, call = run
    assert call() == 2
    assert "could not fetch http://127.0.0.1:9/0123.zip" in capsys.readouterr().err
    write_archive(output / "0123.zip", top="other")
    assert call() == 2
    assert "is not BCCD: it has no folder" in capsys.readouterr().err


def test_check_only_names_what_is_wrong_and_fetches_nothing(run, prepare_bccd, monkeypatch, capsys):
    output, call = run
    assert call("--check-only") == 2
    assert f"annotation file not found: {output}/train.json" in capsys.readouterr().err
    write_archive(output / "0123.zip")
    assert call() == 0
    monkeypatch.setitem(prepare_bccd.KNOWN, "test.json", (72, 945))
    assert call("--check-only") == 2
    assert "test.json has 1 images with 1 boxes, BCCD has 72 with 945" in capsys.readouterr().err

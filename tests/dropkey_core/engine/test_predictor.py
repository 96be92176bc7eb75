"""A predictor of a toy model, which finds the mean colour of a picture."""

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dropkey_core.engine import UserError
from dropkey_core.engine.predictor import Predictor, Result


@dataclass(frozen=True, eq=False, repr=False)
class Colour(Result):
    mean: torch.Tensor
    brighter: bool

    def draw(self):
        return Image.new("RGB", (4, 3), tuple(int(channel) for channel in self.mean))


class ColourFinder(Predictor[Colour]):
    kind = "a toy"
    things = "colours"
    batches = ()

    @classmethod
    def from_trained(cls, trained):
        return cls()

    def predict(self, inputs, than=100):
        assert torch.is_inference_mode_enabled()
        self.batches = (*self.batches, len(inputs))
        means = [each.image.float().mean((1, 2)) for each in inputs]
        return [
            Colour(each.image, each.file_name, mean, bool(mean.mean() > than))
            for each, mean in zip(inputs, means, strict=True)
        ]


def grey(level):
    return np.full((4, 6, 3), level, np.uint8)


@pytest.fixture
def finder():
    return ColourFinder()


def test_one_picture_has_one_result_and_a_list_a_list(finder, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), grey(50))
    one = finder(str(tmp_path / "a.png"))
    assert one.mean.tolist() == [50, 50, 50] and one.file_name.endswith("a.png")
    assert [result.mean[0].item() for result in finder([grey(10), grey(20)])] == [10, 20]
    assert finder([]) == []
    (result,) = finder(tmp_path)
    assert result.mean[0].item() == 50


def test_options_and_batches_reach_the_model(finder):
    results = finder([grey(level) for level in range(5)], batch_size=2, than=2)
    assert [result.brighter for result in results] == [False, False, False, True, True]
    assert finder.batches == (2, 2, 1)


def test_a_stream_is_read_as_its_results_are_taken(finder):
    asked = []

    def camera():
        for level in range(10):
            asked.append(level)
            yield grey(level)

    results = finder(camera(), batch_size=3)
    assert asked == []
    assert next(results).mean[0].item() == 0
    assert asked == [0, 1, 2]


def test_result_as_plain_values(finder):
    result = finder(grey(50))
    found = {"file_name": "", "height": 4, "width": 6, "mean": [50, 50, 50], "brighter": False}
    assert result.to_dict() == found
    assert result.entries(7) == [{"image_id": 7, **found}]


def test_what_is_printed_is_short(finder):
    assert repr(finder) == "<ColourFinder: a toy, finds colours>"
    assert repr(finder(grey(50))) == "<Colour on a picture (6 x 4): 3 found>"


def test_result_is_saved_as_its_name_says(finder, tmp_path):
    result = finder(grey(50))
    result.save(tmp_path / "found.png")
    assert (cv2.imread(str(tmp_path / "found.png")) == 50).all()
    result.save(str(tmp_path / "found.JPG"))
    assert (tmp_path / "found.JPG").read_bytes()[:2] == b"\xff\xd8"
    for name in ("found", "found.txt"):
        with pytest.raises(UserError, match="give it the ending of a picture"):
            result.save(tmp_path / name)
    result.save(tmp_path / "new" / "folder" / "found.png")
    assert (tmp_path / "new/folder/found.png").exists()
    with pytest.raises(UserError, match=r"cannot write .*found\.png"):
        result.save(tmp_path / "found.png" / "more.png")

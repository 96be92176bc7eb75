import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dropkey_core.engine import UserError, load_config
from projects.classification import Classifier, build_model
from projects.predictors import load_predictor

CONFIG = "projects/classification/demo.yaml"


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of the digits' small network, as a training writes it."""
    config = load_config(CONFIG)
    torch.manual_seed(0)
    settings = {name: value for name, value in config.model.items() if name != "_target_"}
    state = build_model(**OmegaConf.to_container(OmegaConf.create(settings))).state_dict()
    torch.save({"model": state, "config": OmegaConf.to_yaml(config)}, tmp_path / "digits.pth")
    return tmp_path / "digits.pth"


def test_classes_are_those_of_the_highest_logits(weights):
    classifier = Classifier.from_pretrained(weights)
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    found = classifier(picture, top=3)
    sample = classifier.mapper({"image": torch.from_numpy(picture).permute(2, 0, 1)})
    with torch.no_grad():
        (outputs,) = classifier.model([sample])
    scores, labels = outputs["logits"].softmax(0).sort(descending=True)
    torch.testing.assert_close(found.scores, scores[:3])
    assert found.labels.tolist() == labels[:3].tolist()
    assert found.names == [f"class {label}" for label in labels[:3].tolist()]
    assert len(classifier(picture, top=99).names) == 10
    with pytest.raises(UserError, match="top must be at least 1, got 0"):
        classifier(picture, top=0)


def test_names_are_the_datas_where_the_config_is_trusted(weights):
    names = Classifier.from_pretrained(weights, config=CONFIG).names
    assert list(names) == [str(digit) for digit in range(10)]


def test_imagenets_names(weights):
    from projects.classification.predictor import class_names

    names = class_names(1000, OmegaConf.create({}))
    assert (len(names), names[0], names[999]) == (1000, "tench", "toilet tissue")


def test_the_picture_has_its_classes_above_it(weights):
    classifier = load_predictor(weights)
    assert isinstance(classifier, Classifier)
    drawn = [
        np.asarray(classifier(np.full((8, 12, 3), 90, np.uint8), top=top).draw()) for top in (1, 3)
    ]
    assert drawn[1].shape[0] - drawn[0].shape[0] == 2 * 20  # a line more for each class
    assert drawn[0].shape[1] == 640 + 2 * 16  # the picture and a margin
    assert (drawn[0][-200:-100, 100:300] == 90).all()


def test_weights_of_something_else_are_refused(weights):
    torch.save({**torch.load(weights), "model": {"head.weight": torch.zeros(2)}}, weights)
    with pytest.raises(UserError, match=r"no checkpoint of a classifier.*convert_checkpoint"):
        Classifier.from_pretrained(weights)

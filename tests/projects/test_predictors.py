"""The predictors of DETR and QPIC: a config and a checkpoint in, what the model finds out."""

import copy

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dropkey_core.engine import UserError
from dropkey_core.engine.paths import PROJECT_ROOT
from projects.detr import Detector
from projects.detr.build import build_model as build_detr
from projects.predictors import load_predictor
from projects.qpic import InteractionDetector
from projects.qpic.build import build_model as build_qpic
from tests.projects.detr.conftest import SMALL_BODY
from tests.projects.small_runs import small_overrides

DETR = (Detector, "projects.detr", "DetrMapper", build_detr, {"num_classes": 3})
SMALL_SET = {"query_boxes": True, "focal": True, "select_queries": True}
BOXES = (*DETR[:4], {"num_classes": 3}, SMALL_SET)
QPIC = (InteractionDetector, "projects.qpic", "QpicMapper", build_qpic)
QPIC += ({"num_object_classes": 3, "num_verb_classes": 4},)


@pytest.fixture(params=[DETR, BOXES, QPIC], ids=["detr", "boxes", "qpic"])
def trained(request, tmp_path):
    """Predictor, config with other numbers of classes and a backbone to fetch, weights, model."""
    predictor, package, mapper, build, classes, *options = request.param
    body = {**SMALL_BODY, **(options[0] if options else {})}
    torch.manual_seed(0)
    model = build(**body, **classes)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    others = {**dict.fromkeys(classes, 7), "pretrained_backbone": True, "embed_dim": "${width}"}
    config = OmegaConf.create(
        {
            "width": SMALL_BODY["embed_dim"],
            "dataset": {"test": {"annotations": "nowhere.json"}},
            "model": {"_target_": f"{package}.build_model", **body, **others},
            "dataloader": {"test": {"mapper": {"_target_": f"{package}.{mapper}"}}},
            "train": {"device": "cpu"},
        }
    )
    config.dataloader.test.mapper.update(training=False, min_sizes=[128])
    return predictor, config, str(tmp_path / "weights.pth"), model


def test_weights_are_loaded_and_the_callers_config_stays_as_it_was(trained, capsys):
    predictor, config, weights, model = trained
    before = copy.deepcopy(config)
    loaded = predictor.from_pretrained(weights, config=config).model
    assert OmegaConf.to_container(config) == OmegaConf.to_container(before)  # not resolved either
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())
    assert weights in capsys.readouterr().out


def test_weights_say_which_predictor_they_are_for(trained):
    predictor, config, weights, _ = trained
    settings = {"config": OmegaConf.to_yaml(config, resolve=True)}
    torch.save({**torch.load(weights), **settings}, weights)
    assert isinstance(load_predictor(weights), predictor)
    others = {Detector, InteractionDetector} - {predictor}
    with pytest.raises(UserError, match=r"weights\.pth is no checkpoint of"):
        others.pop().from_pretrained(weights)
    torch.save({"model": {"weight": torch.zeros(1)}, **settings}, weights)
    with pytest.raises(UserError, match=r"none of the models .*: DETR, QPIC, METRO, a classifier"):
        load_predictor(weights)


def test_what_is_found_is_what_the_model_finds_the_surest_first(trained, tmp_path):
    detector = trained[0].from_pretrained(trained[2], config=trained[1])
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.full((40, 60, 3), 90, np.uint8))
    found = detector(path, score_threshold=0)
    with torch.no_grad():
        (expected,) = detector.model([detector.mapper({"file_name": path})])
    scores = expected.get("scores", expected.get("verb_scores")).flatten()
    torch.testing.assert_close(found.scores, scores.sort(descending=True)[0])
    order = scores.argsort(descending=True, stable=True)
    if isinstance(detector, Detector):
        torch.testing.assert_close(found.boxes_xyxy, expected["boxes_xyxy"][order])
        torch.testing.assert_close(found.labels, expected["labels"][order])
        assert found.names == [f"class {label}" for label in found.labels.tolist()]
    else:
        torch.testing.assert_close(found.human_boxes_xyxy, expected["sub_boxes"][order // 4])
        torch.testing.assert_close(found.object_boxes_xyxy, expected["obj_boxes"][order // 4])
        assert found.verb_labels.tolist() == (order % 4).tolist()
        assert found.verb_names[0] == f"verb {order[0] % 4}"
        assert found.object_names == [f"object {n}" for n in found.object_labels.tolist()]
    threshold = float(found.scores[2])
    assert len(detector(path, score_threshold=threshold).scores) == 3
    with pytest.raises(UserError, match=r"score_threshold must be in \[0, 1\], got 2"):
        detector(path, score_threshold=2)


def test_a_batch_finds_what_single_pictures_do(trained):
    detector = trained[0].from_pretrained(trained[2], config=trained[1])
    generator = np.random.default_rng(0)
    # Of one size: those of others are padded, which the convolutions see.
    pictures = generator.integers(0, 256, (3, 60, 90, 3), np.uint8)
    together = detector(list(pictures), batch_size=3, score_threshold=0)
    for picture, result in zip(pictures, together, strict=True):
        alone = detector(picture, score_threshold=0)
        torch.testing.assert_close(result.scores, alone.scores, rtol=1e-3, atol=1e-4)


def test_names_that_do_not_fit_are_not_used(trained, capsys):
    """More than the head has, or of another kind."""
    predictor, config, weights, _ = trained
    many = [{"id": n, "name": f"thing {n}"} for n in range(7)]
    several = [{"objects": list("abcdefg"), "verbs": list("abcdefg")}, {"objects": 3}]
    for classes in (many, *several, ["a", "b", "c"], [{"id": 1, "name": 2}] * 3, "abc"):
        torch.save({**torch.load(weights), "classes": classes}, weights)
        predictor.from_pretrained(weights, config=config)
        assert "warning: no " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("project", ["detr", "qpic", "classification"])
def test_a_checkpoint_alone_knows_its_classes(
    project, load_script, small_sets, capsys, monkeypatch
):
    path = PROJECT_ROOT / "projects" / project / "demo.yaml"
    train_net = load_script("tools/train_net").main
    command = ["--config", str(path), *small_overrides(path), "train.output_dir=run"]
    assert train_net([*command, "train.max_iter=1"]) == 0
    monkeypatch.setenv("DROPKEY_DATASETS", "elsewhere")
    for name in ("best.pth", "last.pth"):
        predictor = load_predictor(f"run/{name}")
        assert "warning" not in capsys.readouterr().out
        found = predictor(np.zeros((32, 32, 3), np.uint8))
        if project == "detr":
            assert [each["id"] for each in predictor.categories()] == [1, 3, 7]
            assert predictor.names == ["circle", "square", "triangle"]
        elif project == "qpic":
            assert (predictor.object_names[0], predictor.verb_names[0]) == ("person", "hold")
        else:
            assert set(found.names) <= set("0123456789")

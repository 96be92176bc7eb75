"""Several processes do what one does: losses, gradients and weights, and metrics to the last digit.

The processes are forks of this one, see ``tests.ranks``; whole commands, launched as a user does,
are in tests/distributed_check.py.
"""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import projects.classification
import projects.detr
import projects.metro
import projects.qpic
from dropkey_core.engine.accumulation import add_losses, calls_of
from dropkey_core.engine.data import TestBatchSampler
from dropkey_core.engine.distributed import rank_and_world_size
from projects.classification.evaluation import ClassificationEvaluator
from projects.detr.evaluation import CocoEvaluator
from projects.metro.evaluation import MeshEvaluator
from projects.qpic.evaluation import HicoDetEvaluator
from tests.projects.detr.conftest import SMALL_BODY
from tests.projects.metro.conftest import SMALL as SMALL_METRO
from tests.projects.metro.conftest import toy_body, toy_body_file  # noqa: F401, fixtures
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

NOTHING_DRAWN = {"dropout": 0.0, "drop_ratio": 0.0}
DETR_SIZES = {**SMALL_BODY, "backbone_stages": 2, "pre_norm": True, **NOTHING_DRAWN}
SMALL_SET = {**DETR_SIZES, "query_boxes": True, "focal": True, "select_queries": True}
SMALL_SET |= {"backbone_top_down": 1}
T2T_SIZES = {"splits": [[3, 1, 1], [3, 2, 1], [1, 1, 0]], "token_dim": 8, "embed_dim": 16}
T2T_SIZES |= {"depth": 2, "num_heads": 2, "mlp_ratio": 1.0}
METRO_SIZES = {**SMALL_METRO, "image_size": 32, "backbone_stages": 2, "max_masked": 0.0}
METRO_SIZES |= NOTHING_DRAWN
# Objects, or pairs, or what is known of a body, in six images: in two processes one has all but
# one, in three processes one has none.
COUNTS = (3, 1, 0, 0, 0, 1)
STEPS = 2


def build(project, body_file):
    torch.manual_seed(0)
    if project == "detr":
        return projects.detr.build_model(num_classes=3, **DETR_SIZES)
    if project == "detr_small":
        return projects.detr.build_model(num_classes=3, **SMALL_SET)
    if project == "qpic":
        return projects.qpic.build_model(num_object_classes=3, num_verb_classes=4, **DETR_SIZES)
    if project == "metro":
        return projects.metro.build_model(body_file, **METRO_SIZES)
    return projects.classification.build_model(
        "t2t_vit_14", 10, 8, pretrained_backbone=False, drop_ratio=0.0, drop_path=0.0,
        label_smoothing=0.1, architecture_options=T2T_SIZES,
    )  # fmt: skip


def boxes(count):
    return torch.rand(count, 4) * 0.4 + 0.3


def samples(project, body_file):
    """Six samples of equal size, so that padding does not depend on who shares a batch."""
    torch.manual_seed(1)
    size = 8 if project == "classification" else 32
    made = []
    for number, count in enumerate(COUNTS):
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        sample = {"image": image, "height": size, "width": size, "image_id": number}
        if project in ("detr", "detr_small"):
            sample |= {"labels": torch.randint(3, (count,)), "boxes_cxcywh": boxes(count)}
        elif project == "qpic":
            sample |= {
                "obj_labels": torch.randint(3, (count,)),
                "verb_labels": torch.randint(2, (count, 4)).float(),
                "sub_boxes_cxcywh": boxes(count),
                "obj_boxes_cxcywh": boxes(count),
            }
            if count == 3:  # a pair without object
                sample["obj_labels"][1], sample["obj_boxes_cxcywh"][1] = 3, torch.zeros(4)
        elif project == "metro":
            known = torch.full((14, 1), float(count > 0))
            sample |= {
                "vertices": torch.randn(60, 3),
                "joints_3d": torch.cat([torch.randn(14, 3), known], 1),
                "joints_2d": torch.cat([torch.rand(14, 2), known], 1),
                "has_mesh": count > 0,
                "has_joints_3d": count > 1,
            }
        else:
            sample |= {"image": image / 255, "label": number}
        made.append(sample)
    return made


def train_a_little(project, body_file, number=1, batch=None):
    """What ``STEPS`` steps of this process's share give: losses, first gradients, last weights.

    The share is worked off in ``number`` micro-batches.
    """
    model = build(project, body_file)
    batch = samples(project, body_file) if batch is None else batch
    rank, world_size = rank_and_world_size()
    share = len(batch) // world_size
    batch = batch[rank * share : (rank + 1) * share]
    wrapped = model if world_size == 1 else DistributedDataParallel(model, broadcast_buffers=False)
    for module in model.modules():  # a mean that depends on who shares a batch, other draws
        if isinstance(module, nn.BatchNorm2d | nn.Dropout):  # T2T's tokens have one of their own
            module.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    curve, gradients = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses = {}
        calls = calls_of(model, batch, number)
        for call in calls:
            waits = world_size > 1 and call is not calls[-1]
            with wrapped.no_sync() if waits else nullcontext():
                add_losses(losses, wrapped(*call)).backward()
        gradients = gradients or [p.grad.clone() for p in trained]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        curve.append(losses)
    weights = [value.detach().clone() for value in model.state_dict().values()]
    return curve, gradients, weights


def in_a_group(function, *arguments):
    torch.distributed.init_process_group("gloo")
    return as_arrays(function(*arguments))


def as_arrays(value):
    """Tensors as arrays, which go between processes whole."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: as_arrays(one) for key, one in value.items()}
    return [as_arrays(one) for one in value] if isinstance(value, list | tuple) else value


def all_projects(body_file, number=1):
    names = ("detr", "detr_small", "qpic", "metro", "classification")
    return {project: train_a_little(project, body_file, number) for project in names}


@pytest.fixture(scope="module")
def alone(toy_body_file):  # noqa: F811
    return as_arrays(all_projects(toy_body_file))


@pytest.mark.parametrize(("world_size", "number"), [(3, 1), (1, 6), (2, 3)])
def test_parts_train_as_one_with_the_whole_batch(world_size, number, alone, toy_body_file):  # noqa: F811
    """Processes, and micro-batches in each: however objects are spread over them."""
    ranks = run_ranks(world_size, in_a_group, all_projects, toy_body_file, number)
    assert all(rank is not None and rank.value for rank in ranks), [rank.err for rank in ranks]
    assert_equal_but_for_the_order_of_sums([rank.value for rank in ranks], alone)


@pytest.mark.parametrize("project", ["detr", "qpic"])
def test_micro_batches_are_padded_as_the_whole_batch(project, toy_body_file):  # noqa: F811
    """Zeros beyond an edge change what convolutions find at it."""
    batch = samples(project, toy_body_file)
    for number, sample in enumerate(batch):
        sample["image"] = sample["image"][:, : 32 - 5 * number, : 12 + 4 * number]
    whole, parts = (
        as_arrays({project: train_a_little(project, toy_body_file, number, batch)})
        for number in (1, 3)
    )
    assert_equal_but_for_the_order_of_sums([parts], whole)


def assert_equal_but_for_the_order_of_sums(ranks, alone):
    """Losses, gradients and weights of all projects in some processes are those of one."""
    world_size = len(ranks)
    for project, (curve, gradients, weights) in alone.items():
        shares = [rank[project] for rank in ranks]
        for step in range(STEPS):
            for name, loss in curve[step].items():
                mean = sum(share[0][step][name] for share in shares) / world_size
                where = (project, step, name, mean, loss)
                assert mean == pytest.approx(loss, rel=2e-5, abs=1e-6), where
        for part, expected in ((1, gradients), (2, weights)):
            largest = max(abs(theirs).max() for theirs in expected if theirs.size)
            for share in shares:
                for ours, theirs in zip(share[part], expected, strict=True):
                    np.testing.assert_allclose(
                        ours, theirs, rtol=1e-4, atol=1e-5 * largest, err_msg=project
                    )


IMAGES = (11, 4, 25, 3, 8, 90, 7)  # ids in the order of the test set; 2 and 3 processes share 7


def write_coco_file(folder):
    """Objects of two classes in every image."""
    torch.manual_seed(2)
    places = [
        (image, label, torch.randint(30, (2,)).tolist()) for image in IMAGES for label in (1, 2)
    ]
    document = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 60} for i in IMAGES],
        "categories": [{"id": 1, "name": "ship"}, {"id": 2, "name": "tree"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": label, "bbox": [*corner, 20, 20]}
            for n, (image, label, corner) in enumerate(places, start=1)
        ],
    }
    (folder / "coco.json").write_text(json.dumps(document))


def interactions():
    """By image id, a person and two things, with both of which the person does something."""
    torch.manual_seed(3)
    return {
        image: {
            "boxes_xyxy": np.array([[0, 0, 20, 20], [5, 5, 30, 30], [10, 0, 30, 20]], np.float32),
            "labels": np.array([0, 1, 2]),
            "hois": np.array([[0, 1, int(torch.randint(3, ()))], [0, 2, 1]]),
        }
        for image in IMAGES
    }


def evaluators(folder, body_file):
    validity = np.ones((3, 3))
    pairs = [(0, obj, verb) for obj in (1, 2) for verb in range(3)]
    return {
        "detr": CocoEvaluator(folder.parent / "coco.json", folder),
        "qpic": HicoDetEvaluator(
            interactions(), validity, pairs[:2], pairs[2:], subject_label=0, output_dir=folder
        ),
        "metro": MeshEvaluator(body_file, folder),
        "classification": ClassificationEvaluator(per_class=True, output_dir=folder),
    }


def input_and_outputs(image):
    """A sample of all projects at once, and what their models might say; scores are often equal."""
    torch.manual_seed(image)
    sample = {
        "image_id": image, "file_name": f"{image}.jpg", "label": image % 4,
        "subject": image % 2, "frame": image, "camera": image % 3,
        "has_mesh": image != 4, "has_joints_3d": image != 8,
        "vertices": torch.randn(60, 3), "joints_3d": torch.randn(14, 4),
    }  # fmt: skip
    corner = torch.randint(30, (6, 2)).float()
    boxes_xyxy = torch.cat([corner, corner + 20], 1)
    return sample, {
        "detr": {
            "scores": torch.randint(1, 4, (6,)) / 4,
            "labels": torch.randint(2, (6,)),
            "boxes_xyxy": boxes_xyxy,
        },
        "qpic": {
            "sub_boxes": torch.tensor([[0.0, 0.0, 20.0, 20.0]]).repeat(6, 1),
            "obj_boxes": boxes_xyxy,
            "obj_labels": torch.randint(1, 3, (6,)),
            "verb_scores": torch.randint(1, 4, (6, 3)) / 4,
        },
        "metro": {"vertices": torch.randn(60, 3)},
        "classification": {"logits": torch.randint(3, (5,)).float()},
    }


def evaluate_all(folder, body_file, share=None):
    """The metrics of all evaluators over ``share``, by default what the sampler gives."""
    share = share or [[draw.record for draw in batch] for batch in TestBatchSampler(7, 2)]
    results = {}
    for project, evaluator in evaluators(folder, body_file).items():
        for batch in share:
            pairs = [input_and_outputs(IMAGES[record]) for record in batch]
            evaluator.process([sample for sample, _ in pairs], [out[project] for _, out in pairs])
        results[project] = evaluator.evaluate()
    return results


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_metrics_are_the_same_to_the_last_digit(tmp_path, toy_body_file):  # noqa: F811
    """In 1, 2 and 3 processes, with shares of 7, of 3 and 4, and of 2, 2 and 3 images."""
    write_coco_file(tmp_path)

    def evaluated(world_size):  # not forks of this process, where COCO's AP may have been measured
        folder = tmp_path / str(world_size)
        arguments = in_a_group, evaluate_all, folder, toy_body_file
        return run_ranks(world_size, *arguments, start_method="forkserver")

    (first,) = evaluated(1)
    alone = first.value
    assert alone and all(alone.values()), first.err
    assert 0 < alone["detr"]["bbox"]["AP"] < 100
    assert 0 < alone["qpic"]["hoi"]["mAP_full"] < 1
    assert 0 < alone["classification"]["cls"]["top1"] < 100
    for world_size in (2, 3):
        ranks = evaluated(world_size)
        assert repr(ranks[0].value) == repr(alone), ranks[0].err  # repr: NaN is NaN
        assert ranks[0].out == first.out
        assert all(set(rank.value.values()) == {None} and rank.out == "" for rank in ranks[1:])
        assert written(tmp_path / str(world_size)) == written(tmp_path / "1")


def test_a_whole_evaluation(load_script, tmp_path, monkeypatch):
    """The digits, through the tool: what it prints and writes is the same to the last digit."""
    main = load_script("tools/train_net").main
    command = [
        "--config", "projects/classification/demo.yaml", "--eval-only",
        "train.output_dir=run", "dataset.test.per_class=1", "dataloader.test.batch_size=1",
    ]  # fmt: skip
    told = []
    for world_size in (1, 2, 3):
        (tmp_path / str(world_size)).mkdir()
        monkeypatch.chdir(tmp_path / str(world_size))
        first, *others = run_ranks(world_size, main, command)
        assert first.value == 0, first.err
        assert all(rank.value == 0 and rank.out == "" for rank in others)
        predictions = (tmp_path / str(world_size) / "run" / "predictions.csv").read_bytes()
        told.append((first.out, predictions))
    assert told[0] == told[1] == told[2]
    assert "cls/top1" in told[0][0]

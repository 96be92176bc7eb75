"""Each project's model as a file of its own: the outputs are the model's, nothing is random."""

import io
from types import SimpleNamespace

import pytest
import torch

from dropkey_core.engine.export import export
from projects.classification import build_model
from projects.classification.export import exportable as exportable_classifier
from projects.classification.mapper import ClassificationMapper
from projects.detr.export import exportable as exportable_detr
from projects.metro.export import exportable as exportable_metro
from projects.qpic.export import exportable as exportable_qpic
from tests.projects.classification.conftest import tiny  # noqa: F401, a fixture
from tests.projects.detr.conftest import small_detr  # noqa: F401, a fixture
from tests.projects.metro.conftest import (  # noqa: F401, fixtures
    small_metro,
    toy_body,
    toy_body_file,
)
from tests.projects.qpic.conftest import small_qpic  # noqa: F401, a fixture

onnxruntime = pytest.importorskip("onnxruntime", reason="of the extra export")

MEAN, STD = [0.1, 0.4, 0.8], [0.2, 0.3, 0.4]
SHALLOW = {"num_encoder_layers": 1, "num_decoder_layers": 1}  # tracing takes long
BOXES = {"query_boxes": True, "focal": True, "select_queries": True, "backbone_top_down": 1}
BOXES |= {"num_encoder_layers": 1}  # a decoder layer goes on from the boxes of the one before
VOLO = {"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 32, 32], "num_heads": [1, 2, 2, 2]}


@pytest.fixture
def build(request):
    """Makes what ``export`` takes of a small model by its name."""

    def named(name):
        return request.getfixturevalue(name)

    def classifier(model):
        mapper = ClassificationMapper(False, model.image_size, mean=MEAN, std=STD)
        return exportable_classifier(SimpleNamespace(model=model, mapper=mapper))

    makers = {
        "detr": lambda: exportable_detr(SimpleNamespace(model=named("small_detr")(**SHALLOW))),
        "two layers": lambda: exportable_detr(SimpleNamespace(model=named("small_detr")())),
        "boxes": lambda: exportable_detr(SimpleNamespace(model=named("small_detr")(**BOXES))),
        "qpic": lambda: exportable_qpic(SimpleNamespace(model=named("small_qpic")(**SHALLOW))),
        "metro": lambda: exportable_metro(SimpleNamespace(model=named("small_metro")())),
        "t2t": lambda: classifier(named("tiny")()),
        "volo": lambda: classifier(build_model("volo", 4, 64, architecture_options=VOLO)),
    }
    return lambda name: makers[name]()


def unpadded(model):
    """An image without padding, of another size than the one that was exported if any goes."""
    height, width = (model.size[0] + 41, model.size[1] - 23) if model.any_size else model.size
    return model.random_inputs(1, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boxes", "qpic", "metro", "t2t", "volo"])
def test_onnx(build, name, tmp_path):
    """QPIC has the body of a DETR without options."""
    model = build(name)
    file = tmp_path / "model.onnx"
    differences = export(model, file, "onnx")
    assert tuple(differences) == model.outputs
    session = onnxruntime.InferenceSession(file)
    assert [output.name for output in session.get_outputs()] == list(model.outputs)
    inputs = unpadded(model)
    found = session.run(None, {key: tensor.numpy() for key, tensor in inputs.items()})
    with torch.no_grad():
        expected = model.module(**inputs)
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-4, rtol=1e-4)
    assert random_nodes(file) == []


def random_nodes(file):
    """Kinds of the file's nodes, those in functions too, that draw numbers."""
    import onnx

    model = onnx.load(file)
    nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    assert len(nodes) > 10
    kinds = {node.op_type for node in nodes}
    return [kind for kind in kinds if "Random" in kind or kind in ("Dropout", "Bernoulli")]


@pytest.mark.slow
def test_torch(build, tmp_path):
    model = build("detr")
    export(model, tmp_path / "model.pt2", "torch")
    program = torch.export.load(io.BytesIO((tmp_path / "model.pt2").read_bytes()))
    inputs = unpadded(model)
    with torch.no_grad():
        expected = model.module(**inputs)
    for ours, theirs in zip(expected, program.module()(**inputs), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert [target for target in called if "rand" in target or "bernoulli" in target] == []


def test_pixels_and_padding_are_what_the_model_makes_of_samples(build):
    """The model's own way from samples, of two sizes, to its last layer."""
    model = build("two layers")
    generator = torch.Generator().manual_seed(1)
    samples = [
        {"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)}
        for size in ((64, 96), (96, 70))
    ]
    images = torch.full((2, 3, 96, 96), 17, dtype=torch.uint8)  # padding may hold anything
    padding_mask = torch.ones(2, 96, 96, dtype=torch.bool)
    for canvas, mask, sample in zip(images, padding_mask, samples, strict=True):
        _, height, width = sample["image"].shape
        canvas[:, :height, :width] = sample["image"]
        mask[:height, :width] = False
    detr = model.module.model
    with torch.no_grad():
        expected = detr.predict_batch(*detr.batch(samples))
        logits, boxes = model.module(images, padding_mask)
    torch.testing.assert_close(logits, expected["pred_logits"][-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(boxes, expected["pred_boxes"][-1], atol=1e-5, rtol=0)


def test_a_classifiers_pixels_are_normalised_as_its_mapper_does(build):
    model = build("t2t")
    images = model.random_inputs(2, 8, 8)["images"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    normalised = (images / 255 - mean) / std
    with torch.no_grad():
        expected = model.module.network(normalised)
        torch.testing.assert_close(model.module(images)[0], expected, atol=1e-5, rtol=0)

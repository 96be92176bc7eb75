"""DETR's folders of ``transformers``, there and back: outputs and weights stay what they are."""

import json

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from dropkey_core.engine import UserError
from projects.detr import hugging_face
from projects.detr.build import build_model
from projects.detr.hugging_face import image_sides, load_hugging_face, save_hugging_face

transformers = pytest.importorskip("transformers", reason="its folders are read and written")

NAMES = ["N/A", "ship", "tree"]
SIZES = {"encoder_layers": 2, "decoder_layers": 1, "d_model": 32, "num_queries": 5}
SIZES |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
SIZES |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
SIZES |= {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
# As facebook/detr-resnet-50 says it on main: timm's.
TIMM = {"use_timm_backbone": True, "backbone": "resnet18", "use_pretrained_backbone": False}
DILATED = {**TIMM, "backbone": "resnet50", "dilation": True}
OURS = {"num_queries": 5, "embed_dim": 32, "num_heads": 4, "ffn_dim": 48, "num_classes": 3}
OURS |= {"num_encoder_layers": 2, "num_decoder_layers": 1, "pretrained_backbone": False}


def own_backbone():
    """As in the revision ``no_timm``: transformers' own ResNet, here with ten layers."""
    sizes = {"depths": [1, 1, 1, 1], "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
    resnet = transformers.ResNetConfig(**sizes, out_features=["stage4"])
    return {"use_timm_backbone": False, "backbone": None, "backbone_config": resnet}


def unsettle(model):
    """Move all weights away from where they start, or outputs would hardly depend on them."""
    torch.manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.0)
        elif tensor.dim() == 1:
            tensor.add_(0.1 * torch.randn(tensor.shape))
        elif tensor.dim() == 2:
            tensor.copy_(torch.randn(tensor.shape) * tensor.shape[1] ** -0.5)
    return model.eval()


@pytest.fixture(params=["timm", pytest.param("dilated", marks=pytest.mark.slow), "own"])
def theirs(request):
    """A small random DETR of transformers."""
    backbone = {"timm": TIMM, "dilated": DILATED}.get(request.param) or own_backbone()
    config = transformers.DetrConfig(**SIZES, **backbone)
    return unsettle(transformers.DetrForObjectDetection(config))


@pytest.fixture
def ours():
    """Builds a small random DETR of ours that transformers has, too."""

    def build(**changes):
        torch.manual_seed(0)
        return unsettle(build_model(**{"backbone": "resnet18", **OURS, **changes}))

    return build


def assert_same_outputs(theirs, ours):
    torch.manual_seed(2)
    images = torch.randn(2, 3, 96, 128)
    padding_mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding_mask[1, :, 64:] = True
    with torch.no_grad():
        expected = theirs(images, pixel_mask=(~padding_mask).long())
        found = ours.predict_batch(images, padding_mask)
    assert expected.logits.std(0).max() > 0.01  # the two images do not look alike
    torch.testing.assert_close(found["pred_logits"][-1], expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["pred_boxes"][-1], expected.pred_boxes, atol=1e-5, rtol=0)


def test_theirs_becomes_ours(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    state, settings, names = load_hugging_face(tmp_path)
    assert names == NAMES
    model = build_model(**settings).eval()
    assert model.load_state_dict(state).missing_keys == []
    assert_same_outputs(theirs, model)


@pytest.mark.parametrize("dilated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ours_becomes_theirs_and_comes_back(ours, dilated, tmp_path):
    model = ours(backbone="resnet50", dilation=True) if dilated else ours()
    save_hugging_face(model, NAMES, tmp_path / "made")
    theirs = transformers.DetrForObjectDetection.from_pretrained(tmp_path / "made").eval()
    assert theirs.config.id2label == dict(enumerate(NAMES))
    assert_same_outputs(theirs, model)
    state, settings, names = load_hugging_face(tmp_path / "made")
    torch.testing.assert_close(state, dict(model.state_dict()), rtol=0, atol=0)
    assert names == NAMES
    wanted = {"backbone": "resnet50" if dilated else "resnet18", **OURS, "dilation": dilated}
    assert settings == {**wanted, "dropout": 0.1}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "made")
    assert processor.size["shortest_edge"] == 800


def test_trainable_norms_are_written_as_evaluated(ours, tmp_path):
    model = ours(backbone_norm="batch")
    save_hugging_face(model, NAMES, tmp_path)
    state, settings, _ = load_hugging_face(tmp_path)
    again = build_model(**settings).eval()
    again.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = (m.predict_batch(images)["pred_boxes"] for m in (model, again))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_norm": True}, r"no DETR with this model's pre_norm$"),
        ({"focal": True, "query_boxes": True}, r"this model's query_boxes, focal$"),
        ({"canvas": 80}, r"this model's canvas$"),
        ({"backbone_stages": 3}, r"this model's backbone_stages$"),
        ({"position_temperature": 20.0}, r"this model's position_temperature$"),
        ({"backbone": "resnet10"}, r"this model's backbone=resnet10$"),
        ({"num_classes": 4}, r"has 4 classes and 3 class names are given"),
    ],
)
def test_what_transformers_has_not_is_refused(ours, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        save_hugging_face(ours(**changes), NAMES, tmp_path)


def test_sizes_of_images_go_along(ours, tmp_path):
    save_hugging_face(ours(), NAMES, tmp_path, (96, 160))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert dict(processor.size) == {"shortest_edge": 96, "longest_edge": 160}
    assert image_sides(tmp_path) == (96, 160)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 600, "max_size": 1000}')
    assert image_sides(tmp_path) == (600, 1000)  # as older versions wrote it
    (tmp_path / "preprocessor_config.json").unlink()
    assert image_sides(tmp_path) == (800, 1333)


@pytest.fixture
def folder(ours, tmp_path):
    """A folder of ours; returns a function that changes its config."""
    save_hugging_face(ours(), NAMES, tmp_path)

    def change(**changes):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return tmp_path

    return change


def test_the_older_file_is_read_without_running_it(folder):
    path = folder()
    expected, _, _ = load_hugging_face(path)
    tensors = hugging_face.read_weights(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    counter = "model.backbone.conv_encoder.model.layer2.0.downsample.1.num_batches_tracked"
    tensors[counter] = torch.tensor(0)  # facebook/detr-resnet-50 has four of them
    torch.save(tensors, path / "pytorch_model.bin")
    torch.testing.assert_close(load_hugging_face(path)[0], expected, rtol=0, atol=0)
    torch.save({"model": torch.nn.Linear(1, 1)}, path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is refused: only tensors"):
        load_hugging_face(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "conditional_detr"}, r"Invalid enum value 'conditional_detr'.*model_type"),
        ({"architectures": ["DetrForSegmentation"]}, "is of DetrForSegmentation; only"),
        ({"position_embedding_type": "learned"}, r"Invalid enum value 'learned'"),
        ({"decoder_ffn_dim": 64}, r"encoder_ffn_dim 48 and decoder_ffn_dim 64: they must agree"),
        ({"backbone": "convnext_tiny"}, "has the backbone convnext_tiny; resnet10, resnet18"),
        (
            {"backbone_config": {"model_type": "resnet", "depths": [2, 2, 2, 3]}},
            r"has the backbone a bottleneck ResNet of depths \(2, 2, 2, 3\)",
        ),
    ],
)
def test_other_models_are_refused(folder, changes, message):
    with pytest.raises(UserError, match=message):
        load_hugging_face(folder(**changes))


def test_what_a_folder_lacks_is_named(folder, tmp_path):
    path = folder()
    (path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_hugging_face(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors nor pytorch_model\.bin"):
        load_hugging_face(path)
    with pytest.raises(UserError, match=r"a/b/c is neither a folder nor an id"):
        load_hugging_face("a/b/c")


def test_an_id_is_fetched(folder, monkeypatch):
    path, asked = folder(), []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        if not (path / name).is_file():
            raise EntryNotFoundError("404")
        return str(path / name)

    monkeypatch.setattr(hugging_face.huggingface_hub, "hf_hub_download", download)
    expected = load_hugging_face(path)[0]
    torch.testing.assert_close(load_hugging_face("owner/detr@v2")[0], expected)
    assert asked == [("owner/detr", n, "v2") for n in ("config.json", "model.safetensors")]
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"owner/detr is no model of transformers: it has no model"):
        load_hugging_face("owner/detr")


def test_offline_says_what_to_do(monkeypatch):
    def download(repository, name, revision):
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr(hugging_face.huggingface_hub, "hf_hub_download", download)
    message = r"no folder owner/detr is here, .* fetched from .*\(no route\); fetched elsewhere,"
    with pytest.raises(UserError, match=message):
        load_hugging_face("owner/detr")

import pytest
import torch

from dropkey_core.engine import UserError
from projects.metro.body.skeleton import JOINTS_FROM_H36M
from projects.metro.metro import CameraHead, Upsampling, template_tokens

LOSSES = {"loss_joints_3d", "loss_mesh_joints_3d", "loss_joints_2d", "loss_mesh_joints_2d"}
LOSSES |= {"loss_vertices", "loss_vertices_1", "loss_vertices_2"}


def sample(seed, image_size=64, num_vertices=60):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=generator)

    shape = (3, image_size, image_size)
    return {
        "image": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "vertices": rand(num_vertices, 3),
        "joints_3d": rand(14, 4),
        "joints_2d": rand(14, 3),
        "has_mesh": True,
        "has_joints_3d": True,
    }


def test_template_tokens_are_joints_and_coarsest_vertices_about_the_pelvis(toy_body):
    found = template_tokens(toy_body)
    assert found.shape == (14 + 8, 3)
    vertices = torch.tensor(toy_body.template_pose(), dtype=torch.float32)
    joints = torch.tensor(toy_body.h36m_regressor, dtype=torch.float32) @ vertices
    torch.testing.assert_close(found[0], joints[3] - joints[0])  # R_Ankle
    torch.testing.assert_close(found[13], joints[10] - joints[0])  # Head
    kept = toy_body.coarse_vertices[1]
    torch.testing.assert_close(found[14:], vertices[kept] - joints[0])


def test_tokens_are_the_template_beside_the_image(small_metro):
    """The first block sees x, y, z of the template, then the image's channels, mixed by cell."""
    model = small_metro().eval()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model.predict_batch(images)
        cells = model.backbone(images).flatten(2)  # (2, 512, 4)
    (tokens,) = seen
    assert tokens.shape == (2, 22, 3 + 512)
    torch.testing.assert_close(tokens[1, :, :3], model.template)
    weight, bias = model.image_tokens.weight, model.image_tokens.bias
    expected = torch.stack([cells[1] @ weight[n] + bias[n] for n in range(22)])
    torch.testing.assert_close(tokens[1, :, 3:], expected)


def test_camera_of_a_mesh_worked_out():
    head = CameraHead(num_vertices=2)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.mix_axes.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        head.mix_vertices.weight[4] = torch.tensor([1.0, -1.0])
        head.output.weight[1, 4] = 2.0
        head.output.bias[0] = 0.5
    vertices = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]])
    assert head(vertices).tolist() == [[0.5, 2.0 * (321 - 111), 0.0]]


def test_upsampling_mixes_vertices_axis_by_axis():
    upsampling = Upsampling([2, 3, 4])
    with torch.no_grad():
        upsampling.steps[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
        upsampling.steps[0].bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
        upsampling.steps[1].weight.copy_(torch.eye(4, 3))
        upsampling.steps[1].bias.zero_()
    coarsest = torch.tensor([[[1.0, 2.0, 3.0], [3.0, 6.0, 9.0]]])
    full, finer, same = upsampling(coarsest)
    assert torch.equal(same, coarsest)
    assert finer.tolist() == [[[1.0, 2.0, 3.0], [3.0, 6.0, 9.0], [3.0, 5.0, 7.0]]]
    assert full.tolist() == [[*finer[0].tolist(), [0.0, 0.0, 0.0]]]


def test_images_are_normalised_as_imagenets(small_metro):
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 5, 7] = torch.tensor([255, 128, 10])
    batch = small_metro().batch([{"image": image}])
    pixel = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (10 / 255 - 0.406) / 0.225]
    torch.testing.assert_close(batch[0, :, 5, 7], torch.tensor(pixel))
    torch.testing.assert_close(batch[0, 0, 0, 0], torch.tensor(-0.485 / 0.229))


def test_an_image_of_another_size_is_refused(small_metro):
    with pytest.raises(UserError, match="takes images of 64 x 64 pixels, got 96 x 96: make model"):
        small_metro()([sample(0, image_size=96)])


def test_evaluation_returns_a_mesh_per_image(small_metro, toy_body):
    model = small_metro().eval()
    with torch.no_grad():
        together = model([sample(0), sample(1)])
        alone = model([sample(1)])
    shapes = {"vertices": (60, 3), "joints_3d": (14, 3), "joint_tokens": (14, 3), "camera": (3,)}
    assert [{name: t.shape for name, t in image.items()} for image in together] == [shapes] * 2
    for name, tensor in alone[0].items():  # also the batch of one
        torch.testing.assert_close(tensor, together[1][name])
    regressor = torch.tensor(toy_body.h36m_regressor[list(JOINTS_FROM_H36M)], dtype=torch.float32)
    torch.testing.assert_close(together[1]["joints_3d"], regressor @ together[1]["vertices"])


def test_training_returns_every_loss_and_moves_every_parameter(small_metro):
    model = small_metro()
    losses = model([sample(0), sample(1)])
    assert losses.keys() == LOSSES
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_training_compares_with_the_vertices_that_coarser_meshes_keep(small_metro, toy_body):
    targets = small_metro().targets([sample(0), sample(1)])
    vertices = torch.stack([sample(0)["vertices"], sample(1)["vertices"]])
    assert torch.equal(targets["meshes"][0], vertices)
    for mesh, kept in zip(targets["meshes"][1:], toy_body.coarse_vertices, strict=True):
        assert torch.equal(mesh, vertices[:, kept])
    assert targets["has_mesh"].dtype == torch.bool


def test_images_without_truth_leave_the_losses_alone(small_metro):
    model = small_metro(max_masked=0.0, dropout=0.0, drop_ratio=0.0)
    for norm in model.backbone.modules():
        norm.eval()  # batch statistics would tie the images together
    known, unknown = sample(0), sample(1)
    unknown |= {"has_mesh": False, "has_joints_3d": False}
    unknown["joints_2d"][:, 2] = 0
    alone, together = model([known]), model([known, unknown])
    for name in LOSSES:
        share = 2 if name.endswith("2d") else 1  # the mean in the picture is over all images
        torch.testing.assert_close(share * together[name], alone[name])


def test_the_body_is_not_saved_with_the_weights(small_metro):
    others = ("backbone.", "image_tokens.", "blocks.", "camera_head.", "upsampling.")
    assert not [name for name in small_metro().state_dict() if not name.startswith(others)]

import pytest
import torch
from torch.testing import assert_close

from dropkey_core.variants import attention_diversification


def loss_plainly(maps, threshold):
    """The formula, query by query."""
    layers = []
    for layer in maps:
        similarities = []
        for image in layer:
            of_queries = sum(image) / len(image)
            of_mean_query = sum(of_queries) / len(of_queries)
            least = threshold / len(of_mean_query)
            s = torch.where(of_mean_query > least, of_mean_query, 0)
            for query in of_queries:
                p = torch.where(query > least, query, 0)
                lengths = s.norm().clamp(min=1e-8) * p.norm().clamp(min=1e-8)
                similarities.append((s * p).sum() / lengths)
        layers.append(sum(similarities) / len(similarities))
    return sum(layers) / len(layers)


def random_maps(batch, num_layers=3):
    torch.manual_seed(0)
    shared = 2 * torch.randn(num_layers, batch, 2, 1, 6)  # what all queries like
    return list((shared + torch.randn(num_layers, batch, 2, 6, 6)).softmax(-1))


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_formula(batch, threshold):
    maps = random_maps(batch)
    expected = loss_plainly(maps, threshold)
    assert_close(attention_diversification(maps, threshold), expected)
    assert expected > 0.1


def test_images_count_alike_in_batches_of_any_size():
    maps = random_maps(4)
    alone = [attention_diversification([m[i : i + 1] for m in maps]) for i in range(4)]
    assert_close(torch.stack(alone).mean(), attention_diversification(maps))


def test_queries_that_all_look_at_one_key_are_as_alike_as_can_be():
    maps = torch.zeros(1, 2, 4, 4)
    maps[..., 1] = 1.0
    assert_close(attention_diversification([maps]), torch.tensor(1.0))
    diverse = torch.eye(4).expand(1, 2, 4, 4)  # mean query: 1 / 4 for each key
    assert attention_diversification([diverse]) == 0
    # 3 queries look at key 0, whose mean 3/4 is above 2/4; the cosines are 1, 1, 1, 0.
    focused = torch.eye(4)[[0, 0, 0, 3]].expand(1, 1, 4, 4)
    assert_close(attention_diversification([focused]), torch.tensor(0.75))


def test_below_the_threshold_nothing_is_pushed():
    logits = torch.randn(2, 2, 6, 6, requires_grad=True)
    weights = (0.1 * logits).softmax(-1)
    loss = attention_diversification([weights], threshold=2.0)
    loss.backward()
    assert loss == 0
    assert logits.grad.eq(0).all()


def test_gradient_takes_queries_apart():
    torch.manual_seed(0)
    logits = (torch.tensor([1.5, 1.5, 0, 0, 0, 0]) + torch.randn(2, 2, 6, 6)).requires_grad_()
    losses = []
    for _ in range(20):
        loss = attention_diversification([logits.softmax(-1)], threshold=1.0)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 20 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2, losses


def test_gradient_is_the_derivative():
    maps = [m.double().requires_grad_() for m in random_maps(2, num_layers=2)]
    assert torch.autograd.gradcheck(lambda *m: attention_diversification(m, 1.0), maps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    maps = [m.to(dtype).requires_grad_() for m in random_maps(2)]
    loss = attention_diversification(maps)
    assert_close(loss, attention_diversification([m.float() for m in maps]))
    loss.backward()
    assert all(torch.isfinite(m.grad).all() for m in maps)


def test_errors():
    with pytest.raises(ValueError, match="at least one layer, got none"):
        attention_diversification([])
    with pytest.raises(ValueError, match=r"maps \(B, H, Lq, Lk\).*got \(2, 6, 6\)"):
        attention_diversification([torch.rand(2, 6, 6)])
    with pytest.raises(ValueError, match="threshold must be above 0, got 0"):
        attention_diversification(random_maps(1), threshold=0)

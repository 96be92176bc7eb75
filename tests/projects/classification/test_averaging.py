import torch

from dropkey_core.engine import param_groups
from projects.classification.averaging import WeightAverage


def test_the_average_follows_one_step_behind(tiny, samples):
    """a = 0.75 a + 0.25 w at the start of each step, w as the step before left it."""
    model = tiny(ema_decay=0.75)
    parameter = model.network.head.bias
    average = model.average.module.head.bias
    expected = parameter.detach().clone()
    for value in (1.0, -2.0, 5.0):
        model(samples)
        torch.testing.assert_close(average, expected)
        with torch.no_grad():
            parameter.fill_(value)
        expected = 0.75 * expected + 0.25 * torch.full_like(expected, value)


def test_evaluation_runs_the_average_and_leaves_it_alone(tiny, samples):
    model = tiny(ema_decay=0.5)
    with torch.no_grad():
        model.network.head.bias.add_(1.0)
    model(samples)
    before = model.average.module.head.bias.clone()
    logits = torch.stack([output["logits"] for output in model.eval()(samples)])
    images = torch.stack([sample["image"] for sample in samples])
    torch.testing.assert_close(logits, model.average.module(images))
    assert not torch.allclose(logits, model.network(images))
    torch.testing.assert_close(model.average.module.head.bias, before, rtol=0, atol=0)


def test_the_average_is_saved_and_not_trained(tiny, samples):
    model = tiny(ema_decay=0.5)
    network = set(model.network.state_dict())
    state = model.state_dict()
    assert set(state) == {
        *(f"network.{name}" for name in network),
        *(f"average.module.{name}" for name in network),
    }
    trained = {id(p) for group in param_groups(model, 1.0) for p in group["params"]}
    assert trained == {id(p) for p in model.network.parameters() if p.requires_grad}
    model(samples)["loss_cls"].backward()
    assert all(p.grad is None for p in model.average.parameters())


def test_a_resumed_run_averages_alike(tiny, samples):
    model, other = tiny(ema_decay=0.5), tiny(ema_decay=0.5)
    with torch.no_grad():
        model.network.head.bias.add_(1.0)
    model(samples)
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        each(samples)
    averages = [each.average.module.state_dict() for each in (model, other)]
    torch.testing.assert_close(averages[1], averages[0], rtol=0, atol=0)


def test_counters_are_copied_and_statistics_averaged():
    network = torch.nn.BatchNorm1d(2)
    average = WeightAverage(network, 0.5)
    network(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    average.update(network)
    assert average.module.num_batches_tracked == 1
    torch.testing.assert_close(average.module.running_mean, network.running_mean / 2)

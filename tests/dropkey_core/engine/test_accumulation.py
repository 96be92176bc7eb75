import pytest
import torch
from torch import nn

from dropkey_core.engine import UserError, accumulation, load_config, read_checkpoint, replay_step
from dropkey_core.engine.accumulation import Accumulation, bytes_free, bytes_kept, calls_of
from tests.dropkey_core.engine.toy_run import assert_same_run, curve, run, toy

NO_DROPOUT = "model.drop_ratio=0"


def losses(folder):
    return [[float(row[name]) for name in ("loss", "loss_l1", "loss_l2")] for row in curve(folder)]


@pytest.mark.parametrize("number", [2, 4])
def test_micro_batches_train_as_the_whole_batch(toy_folder, number):
    run(NO_DROPOUT, output="whole")
    run(NO_DROPOUT, f"train.accumulate={number}")
    whole, parts = (losses(toy_folder / name) for name in ("whole", "output"))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    ours, theirs = (read_checkpoint(f"{name}/last.pth")["model"] for name in ("output", "whole"))
    torch.testing.assert_close(ours, theirs)


def test_each_part_is_called_with_the_totals_of_all():
    model = toy_model()
    batch = [{"number": number} for number in range(6)]
    calls = calls_of(model, batch, 3)
    assert [[sample["number"] for sample in part] for part, _ in calls] == [[0, 1], [2, 3], [4, 5]]
    assert all(totals == {"images": 6} for _, totals in calls)
    assert calls_of(model, batch, 1) == [(batch,)]
    with pytest.raises(UserError, match=r"accumulate=4 must divide the batch of 6"):
        calls_of(model, batch, 4)


def toy_model(**parts):
    """A model of one parameter whose ``totals`` counts images."""
    model = torch.nn.Linear(1, 1, bias=False)
    model.totals = lambda batch: {"images": len(batch)}
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def test_dropout_is_drawn_for_each_micro_batch(toy_folder):
    run("train.accumulate=2", output="parts")
    run(output="whole")
    assert losses(toy_folder / "parts") != losses(toy_folder / "whole")


def test_a_failed_step_is_replayed_in_micro_batches(toy_folder, monkeypatch, capsys):
    from dropkey_core.engine.trainer import Trainer

    train_step = Trainer.train_step

    def spoil(trainer, batch):
        if trainer.step == 2:
            trainer.model.head.bias.register_hook(lambda gradient: gradient * float("nan"))
        return train_step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", spoil)
    with pytest.raises(UserError, match=r"step 2: the gradients are not finite"):
        run("train.accumulate=2")
    capsys.readouterr()
    replay_step(load_config("toy.yaml"), "output/failed_step_0000002.pth")
    assert "the terms are the same to the last bit" in capsys.readouterr().out


def test_a_model_without_totals_is_refused(toy_folder, monkeypatch):
    monkeypatch.delattr(toy("ToyModel"), "totals")
    with pytest.raises(UserError, match=r"accumulate must be 1: ToyModel has no method totals"):
        run("train.accumulate=2")
    run("train.accumulate=auto", "train.max_iter=1")
    assert read_checkpoint("output/last.pth")["accumulate"] == 1


def runs_out(monkeypatch, most):
    """Let the toy's memory, as that of a GPU, be enough for ``most`` images."""
    model = toy("ToyModel")
    forward = model.forward

    def limited(self, batch, *totals):
        if self.training and len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, batch, *totals)

    monkeypatch.setattr(model, "forward", limited)
    monkeypatch.setattr(accumulation, "bytes_free", lambda device: None)  # as on CUDA: try


def test_auto_halves_the_micro_batches_when_memory_runs_out(toy_folder, monkeypatch, capsys):
    run("train.accumulate=2", output="expected")
    runs_out(monkeypatch, most=2)
    run("train.accumulate=auto")
    said = capsys.readouterr().out
    assert said.count("memory ran out with train.accumulate=1: 2 micro-batches from here on") == 1
    assert_same_run(toy_folder / "output", toy_folder / "expected")  # the step is done again
    assert read_checkpoint("output/last.pth")["accumulate"] == 2
    run("train.accumulate=auto", "train.max_iter=13", resume=True)
    assert "memory ran out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "most", "message"),
    [
        ("auto", 0, "train.accumulate=4, 1 images: make them smaller"),
        (2, 1, "train.accumulate=2: --resume with train.accumulate=4"),  # it was asked for
    ],
)
def test_memory_that_no_number_or_another_one_would_fit(
    toy_folder, monkeypatch, wanted, most, message
):
    runs_out(monkeypatch, most)
    with pytest.raises(UserError, match=f"GPU memory ran out with {message}$"):
        run(f"train.accumulate={wanted}")


@pytest.fixture
def chosen(monkeypatch):
    """What ``auto`` chooses for a batch of 12 if an image takes 1 MiB; and what it says."""
    model, said = toy_model(), []
    fixed = 3 * 4  # bytes: the parameter's gradient and moments

    def choose(free):
        monkeypatch.setattr(accumulation, "bytes_free", lambda device: free)
        monkeypatch.setattr(accumulation, "bytes_kept", lambda *_: 2 * 2**20)  # two images
        wanted = Accumulation("auto", model, torch.enable_grad, said.append)
        wanted.calls([{"image": torch.zeros(3)}] * 12)
        return wanted.number

    return lambda mebibytes: (choose(mebibytes * 2**20 + fixed), said)


@pytest.mark.parametrize(
    ("mebibytes", "number"),
    [(100, 1), (24, 1), (23, 2), (12, 2), (11, 3), (5, 6), (2, 12), (1, 12)],
)
def test_free_memory_decides_on_a_cpu(chosen, mebibytes, number):
    """Half of it is taken, and micro-batches are equal parts of the batch."""
    found, said = chosen(mebibytes)
    assert found == number
    free = f"an image takes 1 MiB or more, {mebibytes} are free"
    assert said == [f"train.accumulate: {number} micro-batches of 12 images ({free})"]


def test_less_free_memory_than_an_image_takes(chosen):
    with pytest.raises(UserError, match="not enough for one image: an image takes 1 MiB or more"):
        chosen(0.9)


def test_auto_measures_and_leaves_no_trace(toy_folder, capsys):
    run(output="plain")
    run("train.accumulate=auto")
    assert "train.accumulate: 1 micro-batches of 4 images (an image" in capsys.readouterr().out
    assert_same_run(toy_folder / "output", toy_folder / "plain")


CPU = torch.device("cpu")


def test_what_a_forward_keeps():
    """Of x W^T the input x and, where that has a gradient, W, which is there anyway."""
    model = nn.Linear(8, 16, bias=False)
    x = torch.randn(4, 8)
    assert bytes_kept(model, lambda: model(x)) == 4 * 8 * 4
    assert bytes_kept(model, lambda: model(x).square().sum()) == 4 * 8 * 4 + 4 * 16 * 4
    assert bytes_kept(model, lambda: model(x) + model(x)) == 4 * 8 * 4  # once
    layers = nn.Sequential(model, nn.Linear(16, 2))
    assert bytes_kept(layers, lambda: layers(x)) == 4 * 8 * 4 + 4 * 16 * 4
    with torch.no_grad():
        assert bytes_kept(model, lambda: model(x)) == 0


def test_buffers_stay_as_they_are():
    model = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in model.named_buffers()}
    bytes_kept(model, lambda: model(torch.randn(4, 3)))
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.skipif(not accumulation.Path("/proc/meminfo").exists(), reason="needs Linux")
def test_free_memory_is_some():
    assert 2**20 < bytes_free(CPU) < 2**50


def test_a_container_has_less(tmp_path, monkeypatch):
    """Pages of files that are not in use can be had."""
    monkeypatch.setattr(accumulation, "CGROUP", tmp_path)
    of_machine = bytes_free(CPU)
    for name, text in {
        "max": "9000",
        "current": "5000",
        "stat": "file 7\ninactive_file 600",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert bytes_free(CPU) == 4600
    (tmp_path / "memory.max").write_text("max\n")
    assert bytes_free(CPU) == pytest.approx(of_machine, rel=0.5)

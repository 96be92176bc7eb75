import pytest

from dropkey_core.engine import UserError, load_config, train


def run(*overrides, output="output", **arguments):
    return train(load_config("toy.yaml", [f"train.output_dir={output}", *overrides]), **arguments)


def toy(name):
    import toy_experiment

    return getattr(toy_experiment, name)


def test_loss_that_is_no_number(toy_folder, monkeypatch):
    def forward(self, batch):
        guess = self.head.weight.sum()
        return {"loss_a": guess, "loss_b": guess * float("nan")}

    monkeypatch.setattr(toy("ToyModel"), "forward", forward)
    with pytest.raises(
        UserError, match=r"step 0: the loss is not finite: loss_b nan; image ids \d"
    ):
        run()
    assert not (toy_folder / "output" / "last.pth").exists()

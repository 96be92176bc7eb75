import csv
import json
import sys
import types

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.io import decode_png

from dropkey_core.engine import UserError, loggers, trainer
from dropkey_core.engine.files.atomic_write import WriteError
from dropkey_core.engine.loggers import CsvLog, ServiceLog, TensorBoardLog, check_loggers
from tests.dropkey_core.engine.toy_run import curve, full_disk, run, toy


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_row_per_step_with_evaluations_beside_losses(tmp_path):
    log = CsvLog(tmp_path, 0)
    log.write(10, {"loss": 0.1})
    log.write(20, {"loss": 1 / 3})
    log.write(20, {"bbox/AP": 42.0})
    log.write(30, {"loss": 3.0})
    assert rows(tmp_path) == [
        {"step": "10", "loss": "0.1", "bbox/AP": ""},
        {"step": "20", "loss": repr(1 / 3), "bbox/AP": "42.0"},
        {"step": "30", "loss": "3.0", "bbox/AP": ""},
    ]


def test_resumed_log_forgets_what_is_done_again_and_keeps_the_rest(tmp_path):
    log = CsvLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step})
    log.write(4, {"AP": 9.0})
    again = CsvLog(tmp_path, 2)
    again.write(2, {"AP": 5})  # an evaluation joins its step
    again.write(3, {"loss": 30})
    found = [(row["step"], row["loss"], row["AP"]) for row in rows(tmp_path)]
    assert found == [("1", "1.0", ""), ("2", "2.0", "5.0"), ("3", "30.0", "")]


WHOLE = b"step,loss\r\n1,1.0\r\n"


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", []),
        (b"\xff\n", []),
        (b"\0" * 40, []),  # after a power cut
        (WHOLE + b"\0" * 40 + b"\r\n2,2.0\r\n", ["1", "2"]),
        (b"step,loss,lr\r\n1,1.0,2.0\r\n2,0.12", ["1"]),  # killed in the middle of a row
        (WHOLE + b"2,2.", ["1"]),  # and of a number
    ],
)
def test_what_a_killed_process_or_a_power_cut_left_in_part_is_dropped(tmp_path, left, kept):
    (tmp_path / "metrics.csv").write_bytes(left)
    CsvLog(tmp_path, 2).write(3, {"loss": 3})
    assert [row["step"] for row in rows(tmp_path)] == [*kept, "3"]


def test_rows_after_the_checkpoint_are_forgotten_whenever_the_next_one_comes(tmp_path):
    log = CsvLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step})
    CsvLog(tmp_path, 2).write(10, {"loss": 10})  # train.log_period is larger now
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "10"]


def test_full_disk_cuts_a_row_that_the_next_start_drops(tmp_path):
    log = CsvLog(tmp_path, 0)
    for step in range(1, 200):
        log.write(step, {})
    log.write(200, {"loss": 1})
    before = log.path.stat().st_size
    with full_disk(before + 5), pytest.raises(WriteError, match=r"cannot write .*metrics.csv: "):
        log.write(201, {"loss": 2})
    assert log.path.stat().st_size == before + 5
    CsvLog(tmp_path, 200).write(201, {"loss": 3})
    assert [row["loss"] for row in rows(tmp_path)[-2:]] == ["1.0", "3.0"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_full_disk_stops_tensorboard(tmp_path):
    log = TensorBoardLog(tmp_path, 0)
    with full_disk(80), pytest.raises(WriteError, match=r"cannot write .*tensorboard: "):
        for step in (1, 2, 3):  # its thread fails, and the next call tells
            log.write(step, {"loss": 1})
    log.close(True)


def shown(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of above
def test_tensorboard_reads_it(tmp_path):
    log = TensorBoardLog(tmp_path, 0)
    log.write(1, {"loss": 0.5, "bbox/AP": 42.0})
    log.write(2, {"loss": 0.25})
    assert shown(tmp_path) == {"loss": [(1, 0.5), (2, 0.25)], "bbox/AP": [(1, 42.0)]}
    log.close(True)


def test_steps_that_are_done_again_replace_those_of_a_killed_run(tmp_path):
    killed = TensorBoardLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        killed.write(step, {"loss": step})
    path = next((tmp_path / "tensorboard").iterdir())
    path.write_bytes(path.read_bytes()[:-7])  # in the middle of a record
    again = TensorBoardLog(tmp_path, 2)
    again.write(2, {"AP": 9})  # the evaluation of a step that was logged before
    again.write(3, {"loss": 30})
    assert shown(tmp_path) == {"loss": [(1, 1), (2, 2), (3, 30)], "AP": [(2, 9)]}
    killed.close(False)
    again.close(True)


def test_tensorboard_shows_a_picture(tmp_path):
    log = TensorBoardLog(tmp_path, 0)
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[1, 2] = 255, 100, 0
    log.show(7, "test set", picture)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Images("test set")
    assert event.step == 7
    decoded = decode_png(torch.frombuffer(bytearray(event.encoded_image_string), dtype=torch.uint8))
    assert decoded.permute(1, 2, 0).tolist() == picture.tolist()
    log.close(True)


class Service:
    """What Lightning's loggers are to ours; remembers what it gets."""

    def __init__(self, name, folder, run_id):
        self.version = run_id or f"{name} of {folder.name}"
        self.experiment = self
        self.got = got.setdefault(self.version, [])

    def log_hyperparams(self, config):
        self.got.append(config["train"]["max_iter"])

    def log_metrics(self, metrics, step):
        self.got.append((step, *metrics))

    def finalize(self, status):
        self.got.append(status)

    def finish(self, exit_code):
        self.got.append(exit_code)


class Gallery(Service):
    def log_image(self, key, images, step):
        self.got.append((step, key, images[0].shape))


got = {}


@pytest.fixture
def service(monkeypatch):
    got.clear()
    monkeypatch.setattr(loggers, "service_logger", Gallery)
    monkeypatch.setattr(trainer, "check_loggers", lambda names: None)
    return got


def settings(folder):
    return OmegaConf.create({"train": {"output_dir": str(folder), "max_iter": 9}})


def test_service_gets_each_thing_once_over_a_kill(service, tmp_path):
    def go_on(log):
        log.write(2, {"loss": 2})
        log.write(2, {"AP": 1.0})
        log.write(3, {"loss": 3})

    killed = ServiceLog("wandb", settings(tmp_path / "run"), print)
    killed.write(1, {"loss": 1})
    go_on(killed)
    again = ServiceLog("wandb", settings(tmp_path / "run"), print)  # from step 1
    go_on(again)
    again.show(3, "test set", np.zeros((2, 5, 3), np.uint8))  # before which it was killed
    again.write(4, {"loss": 4})
    again.close(True)
    sent = [9, (1, "loss"), (2, "loss"), (2, "AP"), (3, "loss")]
    sent += [(3, "test set", (2, 5, 3)), (4, "loss"), "success", 0]
    assert service == {"wandb of run": sent}
    place = tmp_path / "run" / "wandb" / "run.json"
    assert json.loads(place.read_text()) == {"id": "wandb of run", "step": 4, "names": ["loss"]}


def test_service_that_fails_is_told_once_and_no_run_ends(service, tmp_path, monkeypatch):
    said = []
    log = ServiceLog("mlflow", settings(tmp_path / "run"), said.append)

    def fail(*arguments):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(Service, "log_metrics", fail)
    for step in (1, 2):
        log.write(step, {"loss": 1.0})
    log.close(False)
    assert said == ["warning: mlflow gets no more of this run: the server is gone"]
    monkeypatch.setattr(Service, "log_hyperparams", fail)
    with pytest.raises(UserError, match=r"train.loggers: wandb cannot start: the server is gone"):
        ServiceLog("wandb", settings(tmp_path / "other"), print)


def test_service_without_pictures_gets_none(service, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "service_logger", Service)
    log = ServiceLog("mlflow", settings(tmp_path), print)
    log.show(1, "test set", np.zeros((2, 2, 3), np.uint8))
    assert not log.shows_pictures
    log.close(False)
    assert service[f"mlflow of {tmp_path.name}"] == [9, "failed"]


def test_unknown_and_missing_loggers_are_told_in_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"train.loggers: unknown 'tensorbord'; .* 'tensorboard'"):
        check_loggers(["csv", "tensorbord"])
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="package wandb is not installed: pip install wandb"):
        check_loggers(["wandb"])


def test_services_are_told_where_by_their_own_variables(monkeypatch, tmp_path):
    import lightning.pytorch.loggers as theirs

    for name in ("WandbLogger", "MLFlowLogger"):
        monkeypatch.setattr(theirs, name, lambda *places, **names: (*places, names))
    mlflow = types.ModuleType("mlflow")
    mlflow.get_tracking_uri = lambda: "http://server"
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    make, name = loggers.service_logger, str(tmp_path)
    assert make("wandb", tmp_path, "7") == (name, tmp_path, {"project": "dropkey", "id": "7"})
    assert make("mlflow", tmp_path, None) == ("dropkey", name, "http://server", {"run_id": None})
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert make("mlflow", tmp_path, "8") == ("mine", name, "http://server", {"run_id": "8"})


def test_a_run_logs_where_it_is_told_and_shows_the_same_images(toy_folder, service, monkeypatch):
    drawn = []

    def draw(self, samples, outputs):
        drawn.append([sample["image_id"] for sample in samples])
        assert all(output.keys() == {"guess"} for output in outputs)
        return np.zeros((4, 4, 3), np.uint8)

    run("train.max_iter=8", output="plain")
    monkeypatch.setattr(toy("ToyEvaluator"), "draw", draw, raising=False)
    run("train.max_iter=8", "train.loggers=[csv,wandb,csv]")
    assert not (toy_folder / "output" / "tensorboard").exists()
    assert curve(toy_folder / "output") == curve(toy_folder / "plain")
    assert drawn == [[0, 4, 8], [0, 4, 8]]  # of ten; at most train.examples=4
    sent = service["wandb of output"]
    assert [step for step, *names in sent[1:-2] if "test set" in names] == [4, 8]
    assert sent[-2:] == ["success", 0]
    monkeypatch.setattr(toy("ToyEvaluator"), "draw", lambda *given: 1 / 0)
    run("train.max_iter=8", output="undrawn")  # a picture is no reason to lose a run
    assert curve(toy_folder / "undrawn") == curve(toy_folder / "plain")

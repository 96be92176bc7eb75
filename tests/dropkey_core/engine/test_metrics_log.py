import csv

from dropkey_core.engine.metrics_log import MetricsLog


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_row_per_step_with_evaluations_beside_losses(tmp_path):
    log = MetricsLog(tmp_path, 0)
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
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step})
    log.write(4, {"AP": 9.0})
    again = MetricsLog(tmp_path, 2)
    again.write(3, {"loss": 30})
    again.write(4, {"loss": 40})
    assert [(row["step"], row["loss"], row["AP"]) for row in rows(tmp_path)] == [
        ("1", "1.0", ""),
        ("2", "2.0", ""),
        ("3", "30.0", ""),
        ("4", "40.0", ""),
    ]


def test_evaluation_after_resume_joins_its_step(tmp_path):
    MetricsLog(tmp_path, 0).write(4, {"loss": 1})
    MetricsLog(tmp_path, 4).write(4, {"AP": 2})
    assert rows(tmp_path) == [{"step": "4", "loss": "1.0", "AP": "2.0"}]


def test_row_that_a_killed_process_left_unfinished_is_dropped(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 1, "lr": 2})
    with log.path.open("a") as file:
        file.write("2,0.12")
    MetricsLog(tmp_path, 2).write(3, {"loss": 3, "lr": 4})
    assert [row["step"] for row in rows(tmp_path)] == ["1", "3"]

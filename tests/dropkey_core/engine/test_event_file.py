from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dropkey_core.engine.event_file import EventFile


def shown(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def test_tensorboard_reads_it(tmp_path):
    file = EventFile(tmp_path, 0)
    file.write(1, {"loss": 0.5, "bbox/AP": 42.0})
    file.write(2, {"loss": 0.25})
    assert shown(tmp_path) == {"loss": [(1, 0.5), (2, 0.25)], "bbox/AP": [(1, 42.0)]}
    file.close()


def test_steps_that_are_done_again_replace_those_of_a_killed_run(tmp_path):
    killed = EventFile(tmp_path, 0)
    for step in (1, 2, 3, 4):
        killed.write(step, {"loss": step})
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-7])  # in the middle of a record
    again = EventFile(tmp_path, 2)
    again.write(2, {"AP": 9})  # the evaluation of a step that was logged before
    again.write(3, {"loss": 30})
    assert shown(tmp_path) == {"loss": [(1, 1), (2, 2), (3, 30)], "AP": [(2, 9)]}
    killed.close()
    again.close()

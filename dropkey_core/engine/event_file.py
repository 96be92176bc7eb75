"""Scalars on disk in the form that TensorBoard reads."""

import contextlib
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path


class EventFile:
    """One file of scalars, made when a run starts or goes on.

    tensorboard's own writer hands all it gets to a thread: that one dies with a traceback of its
    own when the disk is full, and loader processes would be forked beside it. This one writes when
    it is told to.

    Args:
        folder: where the run's event files lie; made if need be.
        done: finished steps of the run: TensorBoard forgets later ones in older files.
    """

    def __init__(self, folder: Path, done: int) -> None:
        # Imported here: it takes a second.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns()}.{platform.node()}.{os.getpid()}"
        self._event = Event
        self._records = RecordWriter((folder / name).open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=done + 1, session_log=SessionLog(status=SessionLog.START))
        self._records.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the scalars of a step; they have left this process when it returns."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, value in scalars.items():
            summary = Summary(value=[Summary.Value(tag=name, simple_value=float(value))])
            self._write(step=step, summary=summary)
        self._records.flush()

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(OSError):  # what could not be written is tried again, and was told
            self._records.close()

    def _write(self, **fields: object) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())

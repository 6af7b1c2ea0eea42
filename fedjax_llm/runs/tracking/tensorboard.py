"""TensorBoard: event files in the run's folder."""

import importlib
import time
from collections.abc import Mapping

from .contract import Opener, TrackedRun, Tracker, check_installed


def tensorboard() -> Opener:
    """Write TensorBoard's event files into the run's folder.

    `tensorboard --logdir runs` shows each run under the name of its folder. The events are written
    anew when a run is resumed, with all rounds so far, so no round is in it twice; only the time at
    which an event was written, which TensorBoard shows beside the round, is then that of resuming.
    Each round is on the disk when the next one starts. TensorBoard keeps 32-bit floats: bytes are
    rounded to seven digits there. Needs `pip install
    'fedjax-llm[tensorboard]'`, which is TensorBoard alone, without TensorFlow or PyTorch.

    Returns:
        What opens the tracker when the run begins.

    Raises:
        ModuleNotFoundError: Where TensorBoard is not installed.

    """
    check_installed("tensorboard")

    def start(run: TrackedRun) -> Tracker:
        events = importlib.import_module("tensorboard.compat.proto.event_pb2")
        summaries = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        writing = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        for old in run.folder.glob("events.out.tfevents.*"):
            old.write_bytes(b"")  # removed, it would stop a viewer that has it open
        writer = writing.EventFileWriter(str(run.folder))
        # a viewer that read the file of before drops what it read
        restarted = events.SessionLog(status=events.SessionLog.START)
        writer.add_event(events.Event(wall_time=time.time(), step=1, session_log=restarted))

        def log(number: int, values: Mapping[str, float | int]) -> None:
            found = [
                summaries.Summary.Value(tag=name, simple_value=value)
                for name, value in values.items()
            ]
            summary = summaries.Summary(value=found)
            writer.add_event(events.Event(wall_time=time.time(), step=number, summary=summary))
            writer.flush()

        return Tracker(log, writer.close)

    return start

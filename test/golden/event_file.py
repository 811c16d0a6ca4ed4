"""Writes event_file.tfevents with TensorBoard's own writer: python3 test/golden/event_file.py"""

import pathlib

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

NOW = 1700000000.25
events = [
    Event(wall_time=NOW, file_version="brain.Event:2"),
    Event(wall_time=NOW, step=7, session_log=SessionLog(status=SessionLog.START)),
]
for step, values in [
    (8, {"Loss/train": 2.5, "LR/train": 3e-4, "GradNorm": 0.875}),
    (300, {"Perplexity/eval": 1e30}),
    (2**40 + 1, {"Throughput/tokens_per_s": 0.0}),
]:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    events.append(Event(wall_time=NOW, step=step, summary=summary))

with open(pathlib.Path(__file__).with_suffix(".tfevents"), "wb") as file:
    writer = RecordWriter(file)
    for event in events:
        writer.write(event.SerializeToString())
    writer.flush()

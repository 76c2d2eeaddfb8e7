import json
from pathlib import Path

import pytest

from ddm_embed.runs.log import Board, MetricWriter


def test_a_resumed_run_writes_no_line_twice_and_drops_torn_ones(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (5, 10, 15):
        writer.write(step, {"loss": 1.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')  # killed while writing
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text('{"st\x00ep": 1, "loss": 1.0}\n' + text)
    writer = MetricWriter(tmp_path, 10)
    writer.write(15, {"loss": 2.0})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 5, "loss": 1.0}, {"step": 10, "loss": 1.0}, {"step": 15, "loss": 2.0}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_an_error_of_the_event_file_and_no_wait_for_ever(tmp_path):
    board = Board(tmp_path, 0)
    with open("/dev/full", "wb", buffering=0) as full:
        board._writer._py_recordio_writer._writer = full
        with pytest.raises(OSError, match="No space left"):
            board.write(1, {"loss": 1.0})


def test_tensorboard_drops_what_a_resumed_run_writes_again(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    board = Board(tmp_path, start=10)
    board.write(15, {"loss": 2.0})
    board.close()
    (file,) = tmp_path.iterdir()
    content, events = file.read_bytes(), []
    while content:  # a record is its length in 8 bytes, 4 of checksum, itself, 4 of checksum
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    version, again, loss = events
    assert version.file_version == "brain.Event:2" and again.step == 11 and again.session_log.status == 1
    assert loss.step == 15 and loss.summary.value[0].tag == "loss" and loss.summary.value[0].simple_value == 2.0

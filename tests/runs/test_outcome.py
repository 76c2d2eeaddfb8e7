"""A probe's folder: its files are of one probe, wherever the writing of them is stopped."""

import numpy as np
import pytest
from probed import make_predictions, make_results

from ddm_embed.compare.runs import read_runs
from ddm_embed.errors import UserError
from ddm_embed.probe.evaluate import Evaluation
from ddm_embed.report.page import write
from ddm_embed.runs import outcome
from ddm_embed.runs.outcome import ProbeFolder


@pytest.fixture
def folder(tmp_path):
    return ProbeFolder(tmp_path / "run" / "probe" / "linear")


def probe(accuracy):
    results = make_results(accuracy=accuracy)
    return results, make_predictions(results, images=500), {}


@pytest.mark.parametrize("writes", range(4))
def test_a_probe_again_that_is_killed_between_two_files_is_the_old_one_the_new_one_or_a_line(
    folder, monkeypatch, writes
):
    old, new = probe(0.5), probe(0.9)
    folder.write(*old)
    left, write_whole = iter(range(writes)), outcome.write_whole

    def killed(*given):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write_whole(*given)

    monkeypatch.setattr(outcome, "write_whole", killed)
    try:
        write(Evaluation(*new), folder.path)
    except KeyboardInterrupt:
        assert not folder.is_done()  # to be probed again, with its page
    try:
        (found,) = read_runs([folder.path.parents[1]], None)
    except UserError as error:
        assert writes == 1 and "predictions.npz: not of the results beside it" in str(error)
        assert "write it again: python -m ddm_embed.probe --workdir" in str(error)
        return
    whole = old if writes == 0 else new
    assert found.results["test_accuracy"] == whole[0]["test_accuracy"]
    np.testing.assert_array_equal(found.predictions["ridge"], whole[1]["ridge"])


def test_results_stand_before_a_picture_fails(folder, monkeypatch):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr("ddm_embed.report.page.save", fail)
    with pytest.raises(RuntimeError, match="no font"):
        write(Evaluation(*probe(0.9)), folder.path)
    (found,) = read_runs([folder.path.parents[1]], None)
    assert found.predictions and not folder.is_done()


def test_predictions_that_a_later_probe_did_not_make_are_not_read(folder):
    folder.write(*probe(0.5))
    kept = (folder.path / "predictions.npz").read_bytes()
    folder.write(probe(0.5)[0], {}, {})
    assert not (folder.path / "predictions.npz").exists()
    (folder.path / "predictions.npz").write_bytes(kept)
    with pytest.raises(UserError, match="not of the results beside it"):
        read_runs([folder.path.parents[1]], None)

"""The study of groups that are cut: what is counted, what is predicted from it, and what the page says."""

import pytest

from analysis import ranks, report
from analysis.results import Profile, ResultsDir
from proxlab.study import Result

CASES = {
    "group lasso": {"calls": 5, "held": 5 * 24.0 * 64, "sent": 1e3},
    "group MCP": {"calls": 7, "held": 7 * 24.0 * 64, "sent": 2e3},
    "group lasso, gathered": {"calls": 9, "held": 8.0 * 64 * 4096, "sent": 4.0 * 64 * 4096},
}


def count(ranks, shape, count, repeats):
    return Result(
        {
            "cases": {
                k: v | {"milliseconds": 1.0, "elements": 64 * 4096, "groups": 64} for k, v in CASES.items()
            }
        }
    )


def chunks(rows, columns, block):
    return Result({"elements": 10**7, "bytes": 4e7, "chunk": 2e6, "grown": 2e7, "seconds": 3.0, "zero": 1})


def test_the_page_says_what_was_counted_and_what_is_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "_count", count)
    monkeypatch.setattr(ranks, "measure_chunks", chunks)
    said = []
    ranks.run(Profile("quick", threads=1), ResultsDir(tmp_path), said.append)
    assert len(said) == 3 * len(CASES)
    section = ranks.section(ResultsDir(tmp_path))
    assert [f.figure for f in section.findings][:2] == [f"{4 * 64 * 4096 / 1e3:,.0f}×", "5"]
    assert all(f.verdict != "bad" for f in section.findings)
    guess = ranks.predicted(ranks.table(ResultsDir(tmp_path).read("ranks")))
    assert (guess["sums, ms"] < guess["gathering, ms"]).all()
    # Gathering 56 GB at 370 GB/s.
    assert guess["gathering, ms"].min() == pytest.approx(7 / 8 * 56 / 0.37, rel=0.01)
    page = report.build(ResultsDir(tmp_path), {"ranks": "analysis.ranks"}).read_text()
    assert "Predicted, not measured" in page
    assert "nccl/issues/1442" in page


def test_predictions_grow_with_the_latency_of_more_gpus():
    for seconds in (ranks.sum_seconds, ranks.gather_seconds):
        times = [seconds(0.0, n) for n in ranks.GPUS]
        assert times == sorted(times)
        assert times[0] < 1e-4
        assert seconds(1e9, 8) - times[0] > 1e-3


@pytest.mark.ranks
def test_collectives_are_counted_on_processes():
    pytest.importorskip("torch")
    from analysis import ranks_work

    found = ranks_work.measure(2, [64, 8], 2, 1)
    assert set(found) == set(ranks_work.CASES)
    own, gathered, whole = (
        found[k] for k in ("group lasso", "group lasso, gathered", "group lasso, whole groups")
    )
    assert (own["elements"], own["groups"]) == (1024, 16)
    assert 2 < own["calls"] <= 6
    assert whole["calls"] == 2
    # The agreement of two processes, what has failed, six sums for each group, and three for each evaluation.
    evaluations = own["calls"] - 2
    assert own["held"] == 48 + 16 + 8 * 16 * (6 + 3 * evaluations)
    assert gathered["held"] == 48 + 16 + 8 * 1024
    chunk = ranks.measure_chunks(400, 10, 50).values
    assert chunk["elements"] == 4000
    assert 0 < chunk["zero"] < 10

"""Units on workers: the same results wherever computed, and a worker that dies loses only its unit."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from proxlab.study import ClusterError, Folder, Result, Unit, UnitsFailedError, run, run_units
from tests.study import units

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]


def alive(pid):
    """Whether a process runs (one that has ended and waits to be collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A scheduler and two workers, processes on loopback that know nothing of this test's files."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    common = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            process = subprocess.Popen([sys.executable, "-m", *arguments], **common)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start(
            *("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", "scheduler.json"),
        )
        file = folder / "scheduler.json"
        assert eventually(lambda: file.exists() and file.read_text())
        address = json.loads(file.read_text())["address"]
        workers = [
            start("distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard", "--nthreads", "1")
            for _ in range(2)
        ]
        yield address, workers


def squares(count):
    return [units_of(n, units.square, number=n, seed=n) for n in range(count)]


def units_of(name, function, **arguments):
    return Unit(f"u{name}", function, arguments)


def same(one, other):
    assert list(one) == list(other)
    for name, result in one.items():
        assert result.values == other[name].values
        np.testing.assert_array_equal(result.arrays["row"], other[name].arrays["row"])


def test_workers_find_what_this_process_finds(tmp_path):
    here = run_units(squares(5), workers=1, progress=False)
    same(here, run_units(squares(5), workers=2, folder=tmp_path, progress=False))
    assert Folder(tmp_path).read().complete


def test_workers_are_other_processes_of_one_thread_and_small_work_needs_none():
    todo = [units_of(n, units.process, number=n) for n in range(4)]
    values = [r.values for r in run_units(todo, workers=2, progress=False).values()]
    assert os.getpid() not in {v["pid"] for v in values}
    assert {v["threads"] for v in values} == {"1"}
    assert not any(alive(v["pid"]) for v in values)
    assert {r.values["pid"] for r in run_units(todo, progress=False).values()} == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unit_that_raises_loses_only_itself(tmp_path, workers):
    todo = [units_of(n, units.square, number=n) for n in (2, -1, 3)]
    with pytest.raises(UnitsFailedError, match="1 of 3 units failed: u-1: ValueError: negative") as caught:
        run_units(
            [*todo[::2], Unit("u-1", units.square, {"number": -1})][::-1], folder=tmp_path, workers=workers
        )
    assert {name: r.values["square"] for name, r in caught.value.results.items()} == {"u3": 9, "u2": 4}
    stored = Folder(tmp_path).read()
    assert not stored.complete
    assert list(stored.missing) == ["u-1"]


def test_units_of_another_run_are_not_read_as_those_of_the_last(tmp_path):
    """A run of other parameters that is interrupted leaves none of the units of the one before it."""
    asked = {name: {"number": n} for name, n in (("a", 2), ("b", 3), ("c", 4))}
    run_units([Unit(name, units.square, given) for name, given in asked.items()], folder=tmp_path)
    asked |= {"a": {"number": 5}, "b": {"number": -1}}
    with pytest.raises(UnitsFailedError):
        run_units([Unit(name, units.square, given) for name, given in asked.items()], folder=tmp_path)
    stored = Folder(tmp_path).read()
    assert {unit.name: unit.values["square"] for unit in stored.units} == {"a": 25, "c": 16}
    assert stored.missing == {"b": "is there from another run, of other parameters or another version"}
    assert not stored.complete


def test_a_local_worker_that_dies_is_replaced_and_its_unit_computed(tmp_path):
    todo = [units_of(n, units.dies_once, number=n, mark=str(tmp_path / str(n // 2))) for n in range(4)]
    found = run_units(todo, workers=2, progress=False)
    assert [r.values["square"] for r in found.values()] == [0, 1, 4, 9]


def test_what_kills_every_worker_is_a_failure_with_a_reason():
    todo = [Unit("kills", os._exit, {"status": 1}), Unit("u2", units.square, {"number": 2})]
    with pytest.raises(UnitsFailedError, match="kills: every worker that computed it died") as caught:
        run_units(todo, workers=2, progress=False)
    assert list(caught.value.results) == ["u2"]


def test_a_cluster_that_loses_a_worker_finds_the_same(scheduler, tmp_path):
    address, workers = scheduler
    here = run_units(squares(12), workers=1, folder=tmp_path / "here", progress=False)
    slow = [units_of(n, units.slow, number=n, seconds=0.2) for n in range(12)]
    run = subprocess.Popen(
        [sys.executable, "-c", f"import time; time.sleep(1); import os; os.kill({workers[0].pid}, 9)"]
    )
    there = run_units(slow, cluster=address, folder=tmp_path / "there", progress=False)
    assert run.wait(timeout=30) == 0
    assert eventually(lambda: workers[0].poll() is not None)
    assert [r.values for r in there.values()] == [r.values for r in here.values()]
    assert Folder(tmp_path / "there").read().complete
    same(here, run_units(squares(12), cluster=address, progress=False))


def test_functions_of_this_session_reach_workers_that_have_no_such_file(scheduler, tmp_path):
    from proxlab.study import usercode

    file = tmp_path / "mine.py"
    file.write_text(
        "import proxlab.study as s\ndef double(n): return s.Result({'n': 2 * n, 'file': __file__})\n"
    )
    double = usercode.load(f"{file}:double")
    file.unlink()
    tenfold = {}
    exec("import proxlab.study as s\ndef tenfold(n): return s.Result({'n': 10 * n})", tenfold)
    todo = [Unit("file", double, {"n": 1}), Unit("here", tenfold["tenfold"], {"n": 1})]
    found = run_units(todo, cluster=scheduler[0], progress=False)
    assert [r.values["n"] for r in found.values()] == [2, 10]
    assert found["file"].values["file"] != str(file)


def test_functions_of_a_module_that_is_nowhere_on_the_path_reach_workers(tmp_path, monkeypatch):
    """As test runners import files."""
    file = tmp_path / "elsewhere.py"
    file.write_text(
        "import proxlab.study as s\nscale = 3\ndef times(n): return s.Result({'n': scale * n})\n"
        "class Solver:\n    def __call__(self, n): return times(n)\n"
        "def call(solver, n): return solver(n)\n"
    )
    spec = importlib.util.spec_from_file_location("elsewhere", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    spec.loader.exec_module(module)
    todo = [Unit(f"u{n}", module.times, {"n": n}) for n in range(2)]
    todo.append(Unit("solver", module.call, {"solver": module.Solver(), "n": 5}))
    found = run_units(todo, workers=2, progress=False)
    assert [r.values["n"] for r in found.values()] == [0, 3, 15]


def test_a_scheduler_that_is_not_there_is_one_sentence(monkeypatch):
    from proxlab.study import cluster

    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        run_units(squares(2), cluster="tcp://127.0.0.1:9", progress=False)


SCRIPT = """
import os, pathlib, signal, sys, time
from proxlab.study import Result, Unit, run_units
# Where the tests run in the background, a shell has told them to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
def unit(number):
    pathlib.Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(number)
    return Result({"number": number})
print(list(run_units([Unit(f"u{k}", unit, {"number": float(sys.argv[2])}) for k in range(2)], workers=2)))
"""


def test_a_script_without_a_guard_runs_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "pids").mkdir()
    command = [sys.executable, tmp_path / "script.py", tmp_path / "pids", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "['u0', 'u1']\n", done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, how):
    (tmp_path / "script.py").write_text(SCRIPT)
    pids = tmp_path / "pids"
    pids.mkdir()
    command = [sys.executable, tmp_path / "script.py", pids, "60"]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert eventually(lambda: len(list(pids.iterdir())) == 2)
    workers = [int(path.name) for path in pids.iterdir()]
    assert all(alive(pid) for pid in workers)
    parent.send_signal(how)
    _, errors = parent.communicate(timeout=30)
    assert eventually(lambda: not any(alive(pid) for pid in workers))
    assert how == signal.SIGKILL or errors.rstrip().endswith("KeyboardInterrupt")


def test_a_function_that_returns_something_else_is_named():
    with pytest.raises(UnitsFailedError, match="must return a Result, got int"):
        run_units([Unit("u", int, {})], progress=False)


def test_workers_must_be_positive():
    with pytest.raises(ValueError, match="workers: must be finite and >= 1, got 0"):
        run_units([Unit("u", Result, {})], workers=0)


@pytest.mark.parametrize(
    ("taken", "left", "small"),
    [
        ([], 10_000, True),  # nothing is known yet
        ([4.0], 10_000, True),  # the first one may have compiled
        ([60.0], 2, False),
        ([4.0, 0.01], 100, True),
        ([4.0, 0.01], 10_000, False),
        ([4.0, 0.01, 9.0, 0.01], 100, True),  # one that was disturbed
    ],
)
def test_work_that_takes_less_than_workers_need_to_start_is_small(taken, left, small):
    assert run._is_small(taken, left) == small


def test_small_work_starts_no_workers(monkeypatch):
    monkeypatch.setattr(run, "usable_cores", lambda: 2)
    monkeypatch.setattr(run.Cluster, "start", lambda workers: pytest.fail("workers were started"))
    found = run_units([Unit(f"p{k}", units.process, {"number": k}) for k in range(30)])
    assert {result.values["pid"] for result in found.values()} == {os.getpid()}

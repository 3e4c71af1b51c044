"""Sessions: connecting, statistics, threads, forked children, errors that come later and name the line that asked."""

import inspect
import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
from check import same, values
from conftest import Daemon


def run(code, environment, *arguments):
    """Runs Python code in a process of its own; gives its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ------------------------------------------------------------------------------------------------- sessions


def test_stat(xp):
    xp.synchronize()
    before = xp.stat()
    x = xp.ones((16,))
    for _ in range(10):
        x = x + 1.0
    assert float(x[0]) == 11.0
    after = xp.stat()
    [engine] = after["engines"]
    assert engine["device"] == "cpu"
    assert engine["counters"]["ops"] >= before["engines"][0]["counters"]["ops"] + 10
    assert os.getpid() in {session["pid"] for session in after["sessions"]}


def test_connect_makes_the_default_session_anew(xp, daemon):
    old = xp.ones((3,))
    constant = xp.constant(np.arange(2000, dtype=np.float32))
    first = xp.connect(daemon.path, name="first", weight=50)
    second = xp.connect(daemon.path, name="second", qos="idle", fuse=False, batch=False)
    assert first.id != second.id and str(second.socket) == daemon.path
    assert {"first", "second"} <= {session["name"] for session in xp.stat()["sessions"]}
    same(xp, old + 1.0, np.full(3, 2, np.float32))
    with pytest.raises(xp.TensordError, match="another session"):
        old + xp.ones((3,))
    same(xp, constant + xp.ones((2000,)), np.arange(1, 2001, dtype=np.float32))
    xp.connect(daemon.path, name="tests")


def test_a_session_lowers_its_own_limits(xp, daemon):
    session = xp.connect(daemon.path, name="limited")
    try:
        xp.limit(device_memory=1 << 20, requests=5000)
        own = next(row for row in xp.limits() if row["session"] == session.id)
        assert own["limits"]["device-memory"]["limit"] == 1 << 20
        with pytest.raises(xp.OutOfMemoryError, match="the session's limit of 1048576 bytes of device memory"):
            xp.asnumpy(xp.zeros((1 << 20,)) + 1.0)
        with pytest.raises(xp.TensordError, match="only go down"):
            xp.limit(device_memory=1 << 21)
        with pytest.raises(ValueError, match="there is no limit"):
            xp.limit(memory=1)
        xp.limit(device_memory=None)
        assert float(xp.asnumpy(xp.zeros((1 << 20,)) + 1.0)[-1]) == 1.0
    finally:
        xp.connect(daemon.path, name="tests")


def test_connect_refuses_nonsense(xp, tmp_path):
    with pytest.raises(ValueError, match="qos"):
        xp.connect(qos="fast")
    with pytest.raises(ValueError, match="weight"):
        xp.connect(weight=0)
    with pytest.raises(xp.DaemonLost, match="nobody.sock"):
        xp.connect(str(tmp_path / "nobody.sock"))


def test_no_daemon_and_no_autostart(tmp_path):
    environment = dict(os.environ, TENSORD_SOCKET=str(tmp_path / "none.sock"), TENSORD_AUTOSTART="0")
    code = """
import tensord
try:
    tensord.ones((2,))
except ConnectionError as error:
    assert isinstance(error, tensord.DaemonLost)
    print(error)
"""
    message = run(code, environment)
    assert "TENSORD_AUTOSTART=0" in message and "tensord --socket" in message


def test_the_first_line_works_where_no_daemon_runs(daemon, tmp_path):
    environment = dict(os.environ, TENSORD_SOCKET=str(tmp_path / "own.sock"))
    environment.pop("TENSORD_AUTOSTART", None)
    code = """
import os, signal, tensord
print(float(tensord.sum(tensord.ones((10,)))))
"""
    assert run(code, environment) == "10.0"
    # The private daemon is found by who comes next, and ends by itself.
    assert run(code, environment) == "10.0"


# --------------------------------------------------------------------------------------------------- errors


def test_errors_that_come_later_name_the_line(xp):
    huge = 1 << 40
    asked = inspect.currentframe().f_lineno + 1
    x = xp.ones((huge,)) + xp.broadcast_to(xp.asarray(np.ones(1, np.float32)), (huge,))
    with pytest.raises(xp.OutOfMemoryError) as caught:
        float(xp.concat([x, x])[5])
    assert isinstance(caught.value, MemoryError)
    assert f"{pathlib.Path(__file__).name}:" in str(caught.value)
    assert asked <= caught.value.lineno_asked <= asked + 2
    assert caught.value.filename_asked == __file__
    assert float(xp.ones((2,))[0]) == 1.0


def test_lines_inside_the_package_are_not_named(xp):
    from tensord import _tensord as core

    here = core.site()
    again = core.site()
    assert here and again and here != again
    was = xp.set_sites(False)
    assert core.site() == 0
    assert xp.set_sites(was) is False


def test_debugging_stops_at_the_first_nan(environment):
    code = """
import tensord as xp
x = xp.asarray([1.0, -1.0])
y = x + 1.0
try:
    z = xp.log(y - 1.0)
except FloatingPointError as error:
    print(error)
"""
    message = run(code, dict(environment, TENSORD_DEBUG="sync,nan"))
    assert message.startswith("log gave a NaN") and "<string>:6" in message
    assert run(code, environment) == ""


# -------------------------------------------------------------------------------------------------- threads


def test_threads_have_queues_of_their_own(xp):
    shared = xp.asarray(values((100,), "float32"))
    want = xp.asnumpy(shared)
    results, failures = {}, []

    def work(number):
        try:
            x = shared
            for _ in range(200):
                x = x + float(number)
            results[number] = x
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number, result in results.items():
        same(xp, result, want + 200 * number, rtol=1e-5, atol=1e-3)
    total = results[0] + results[1] + results[2] + results[3]
    same(xp, total, 4 * want + 1200, rtol=1e-5, atol=1e-2)


# -------------------------------------------------------------------------------------------------- waiting

# The daemon's engine stands still meanwhile; should the interpreter hang, its threads' positions are the message.
STOPPED = """
import faulthandler, os, pathlib, signal, threading
import tensord as xp

faulthandler.dump_traceback_later(60, exit=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without
daemon = int(os.environ["DAEMON"])
children = pathlib.Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
engine = next(int(pid) for pid in children if b"engine" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
x = xp.ones((4,))
assert float(x[0]) == 1.0
stop = lambda: os.kill(engine, signal.SIGSTOP)
try:
    WORK
finally:
    os.kill(engine, signal.SIGCONT)
"""


def run_beside_a_stopped_engine(work, tmp_path):
    daemon = Daemon(tmp_path)
    environment = dict(os.environ, TENSORD_SOCKET=daemon.path, TENSORD_AUTOSTART="0", DAEMON=str(daemon.process.pid))
    said = run(STOPPED.replace("WORK", work.strip().replace("\n", "\n    ")), environment)
    assert daemon.end() == 0
    return said


@pytest.mark.parametrize("wait", ["xp.asnumpy(y)", "float(y[0])", "xp.synchronize()"])
def test_ctrl_c_ends_a_wait(wait, tmp_path):
    work = f"""
stop()
y = x + 1.0
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    {wait}
except KeyboardInterrupt:
    os.kill(engine, signal.SIGCONT)
    print("interrupted", xp.asnumpy(y).tolist())
"""
    assert run_beside_a_stopped_engine(work, tmp_path) == "interrupted [2.0, 2.0, 2.0, 2.0]"


def test_ctrl_c_ends_the_wait_for_room_in_a_full_ring(tmp_path):
    work = """
stop()
count = 0
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        y = x + float(count)
        count += 1
except KeyboardInterrupt:
    os.kill(engine, signal.SIGCONT)
    # The signal may have come before the ring was full, between submitting and counting.
    print("interrupted", xp.asnumpy(y)[3] in (count, count + 1.0))
"""
    assert run_beside_a_stopped_engine(work, tmp_path) == "interrupted True"


def test_a_full_ring_stops_its_own_thread_only(tmp_path):
    work = """
ready, go = threading.Event(), threading.Event()
def submit():
    global y
    y = x
    assert float(y[0]) == 1.0  # opens the thread's queue
    ready.set()
    go.wait()
    for _ in range(200_000):
        y = y + 1.0
thread = threading.Thread(target=submit)
thread.start()
ready.wait()
stop()
go.set()
# This thread goes on although that one cannot: else nobody would wake the engine.
thread.join(0.5)
assert thread.is_alive()
os.kill(engine, signal.SIGCONT)
thread.join()
print(xp.asnumpy(y).tolist())
"""
    assert run_beside_a_stopped_engine(work, tmp_path) == "[200001.0, 200001.0, 200001.0, 200001.0]"


# ----------------------------------------------------------------------------------------------------- fork

FORK = """
import os, sys
import numpy as np
import tensord as xp

weights = xp.constant(np.arange(5000, dtype=np.float32))
plain = xp.ones((4,))
assert float(plain[0]) == 1.0
child = os.fork()
if child == 0:
    try:
        try:
            plain + 1.0
            os._exit(1)
        except xp.TensordError as error:
            assert "fork" in str(error), error
        assert float(xp.sum(weights[:10])) == 45.0
        assert float(xp.sum(xp.ones((8,)))) == 8.0
        del plain
        sys.exit(0)
    except SystemExit as end:
        # The way a child ends that runs everything that runs at exit.
        raise
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
# The parent goes on as if nothing had been.
assert float((plain + 2.0)[3]) == 3.0
assert float(xp.sum(weights[:10])) == 45.0
print("both")
"""


def test_a_forked_child_opens_a_session_of_its_own(environment):
    assert run(FORK, environment) == "both"


def _in_child(number):
    import tensord

    return float(tensord.sum(_WEIGHTS * float(number))), tensord.stat()["sessions"] != []


_WEIGHTS = None


def test_multiprocessing_with_fork(xp):
    global _WEIGHTS
    _WEIGHTS = xp.constant(np.arange(1000, dtype=np.float32))
    assert float(_WEIGHTS[3]) == 3.0
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map(_in_child, range(6))
    assert results == [(499500.0 * number, True) for number in range(6)]
    assert float(_WEIGHTS[4]) == 4.0


APPLICATION = """
import os
import numpy as np
import tensord as xp

WEIGHTS = xp.constant(np.arange(2000, dtype=np.float32))
WARM = float(WEIGHTS[7])
LOADED_BY = os.getpid()


def application(environ, start_response):
    number = float(environ["QUERY_STRING"] or 0)
    value = float(xp.sum(WEIGHTS[:10] * number))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{value} {LOADED_BY != os.getpid()} {WARM}".encode()]
"""


def test_gunicorn_with_preload(environment, tmp_path):
    import http.client
    import socket

    (tmp_path / "application.py").write_text(APPLICATION)
    path = str(tmp_path / "http.sock")
    # Listening before gunicorn starts: a request waits until a worker takes it, and nobody has to poll.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(16)
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--preload", "--workers", "3", "--bind", f"fd://{listener.fileno()}", "application"],
            cwd=tmp_path,
            env=environment,
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    try:
        for number in range(12):
            connection = http.client.HTTPConnection("localhost", timeout=60)
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(60)
            connection.sock.connect(path)
            connection.request("GET", f"/?{number}")
            assert connection.getresponse().read().decode() == f"{45.0 * number} True 7.0"
            connection.close()
    finally:
        server.terminate()
        _, log = server.communicate(timeout=60)
    assert server.returncode == 0, log
    assert "Traceback" not in log, log

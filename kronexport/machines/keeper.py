"""Keeps a board for one client: holds its lease, runs agents one after the other, and cleans up.

It is sent over SSH as text and run by the board's Python (>= 3.6, standard library only): nothing is written on the
board before the lease is taken. Requests are lines of JSON on stdin. Each but ``beat`` is answered by one line on
stdout that begins with MARK, which tells it from what a login script prints:

    {"do": "lease", "path", "token", "owner", "silence"}  ->  {"folder"}, or {"held": who has it}
    {"do": "run", "command": [...], "seconds", "folder", "stdout"}
                                                          ->  {"code", "output"}; code null: it took too long;
                                                              or {"missing": why there is no such program}
    {"do": "keep", "names": [...]}                        ->  {"free"}: bytes, once all else in the folder is gone
    {"do": "free"}                                        ->  {"free"}: bytes
    {"do": "beat"}                                            the client is there
    {"do": "end"}                                         ->  {"ended"}

A command runs in ``folder``, which is in the work folder. Its output is what it prints on stderr, and on stdout too
where ``stdout`` is true; the end of it, if there is much.

The lease is a lock on one file that everybody on the board may open. The system frees it when this process ends,
however it ends. When stdin ends, or the client is silent for too long, the running agent is killed, the work folder
removed and the lease freed. A folder that a killed keeper left is removed by the next.
The file of the lease stays, and what TensorRT's builder learnt (its timing cache).
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, Optional, Tuple

MARK = "kronexport-keeper "
OUTPUT_BYTES = 64 * 1024
EVICTION_SECONDS = 10.0
_STDIN = 0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

Json = Dict[str, Any]


class GoneError(Exception):
    """The client is not there any more."""


class Client:
    """The one at the other end of stdin and stdout. ``silence``: seconds without a line after which it is gone."""

    def __init__(self) -> None:
        self.silence = 60.0
        self._heard = time.monotonic()
        self._rest = b""

    def say(self, answer: Json) -> None:
        try:
            os.write(1, (MARK + json.dumps(answer) + "\n").encode("utf-8"))
        except OSError as error:
            raise GoneError from error

    def request(self) -> Json:
        """The next request; raises GoneError."""
        _, request = self.either(None, float("inf"))
        return request

    def either(self, output: Optional[int], until: float) -> Tuple[bytes, Json]:
        """What the descriptor ``output`` gives (b"" at its end) and {}, or b"" and the next request.

        Raises:
            GoneError: stdin has ended, or nothing was heard for too long.
            TimeoutError: ``until`` (of time.monotonic) is past.
        """
        while b"\n" not in self._rest:
            now = time.monotonic()
            if now >= until:
                raise TimeoutError
            if now >= self._heard + self.silence:
                raise GoneError
            watched = [_STDIN] if output is None else [_STDIN, output]
            ready = select.select(watched, [], [], min(until, self._heard + self.silence) - now)[0]
            if _STDIN in ready:
                self._read()
            elif ready and output is not None:
                return os.read(output, OUTPUT_BYTES), {}
        line, self._rest = self._rest.split(b"\n", 1)
        return b"", dict(json.loads(line.decode("utf-8")))

    def _read(self) -> None:
        data = os.read(_STDIN, OUTPUT_BYTES)
        if not data:
            raise GoneError
        self._heard = time.monotonic()
        self._rest += data


# --- the lease ------------------------------------------------------------------------------------------------


def take_lease(path: str, holder: Json) -> Tuple[Optional[int], Json]:
    """The descriptor of the locked lease and ``holder``, or None and who holds it.

    An earlier keeper of the same client, which does not know yet that its connection is lost, is ended.
    """
    give_up = time.monotonic() + EVICTION_SECONDS
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            found = _holder(descriptor)
            os.close(descriptor)
            if error.errno != errno.EWOULDBLOCK:
                raise
            if found.get("token") != holder["token"] or time.monotonic() > give_up:
                return None, found
            with contextlib.suppress(OSError):
                os.kill(found["pid"], signal.SIGTERM)
            time.sleep(0.1)
            continue
        if _is_at(descriptor, path):
            _write(descriptor, json.dumps(holder))
            return descriptor, holder
        os.close(descriptor)  # someone has removed the file meanwhile: what counts is the one that others find


def free_lease(descriptor: int) -> None:
    """Nobody holds it; the file stays, for a removed one might be locked by another already."""
    with contextlib.suppress(OSError):
        _write(descriptor, "")
    os.close(descriptor)


def _opened(path: str) -> int:
    """Of whoever made it, and for everybody."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # another user has made it in the meantime
            os.fchmod(descriptor, 0o666)
        return descriptor


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _holder(descriptor: int) -> Json:
    try:
        return dict(json.loads(os.pread(descriptor, 4096, 0).decode("utf-8")))
    except (OSError, ValueError):  # it is just being written
        return {}


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode("utf-8"), 0)


# --- work -----------------------------------------------------------------------------------------------------


def work_folder() -> str:
    """A new folder of this user on this board; what an earlier keeper left is removed. Only for who has the lease."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = os.path.join(cache, "kronexport-board", platform.node() or "board")  # a home may be shared by boards
    os.makedirs(root, exist_ok=True)
    for name in os.listdir(root):
        if name.startswith("job-"):
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
        elif name.startswith(".kronexport-"):  # a copy that was not finished (files.TEMP_PREFIX)
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(root, name))
    return tempfile.mkdtemp(prefix="job-", dir=root)


def keep_only(folder: str, names: List[str]) -> None:
    """Remove everything else in ``folder``."""
    for name in sorted(set(os.listdir(folder)) - set(names)):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def run(client: Client, folder: str, request: Json) -> Json:
    """How the command of a request ended: its exit code, below 0 for a signal, and the end of its output.

    Raises:
        GoneError: the client left, or wants something else; the command is killed.
    """
    os.makedirs(folder, exist_ok=True)
    try:
        child = _started(folder, request)
    except (FileNotFoundError, PermissionError) as error:
        return {"missing": error.strerror}
    pipe: Any = child.stdout if request["stdout"] else child.stderr
    output = b""
    until = time.monotonic() + request["seconds"]
    try:
        while True:
            printed, other = client.either(pipe.fileno(), until)
            if other.get("do") == "beat":
                continue
            if other:
                raise GoneError
            if not printed:
                return {"code": child.wait(), "output": output.decode("utf-8", "replace")}
            output = (output + printed)[-OUTPUT_BYTES:]
    except TimeoutError:
        return {"code": None, "output": ""}
    finally:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        pipe.close()


def _started(folder: str, request: Json) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        request["command"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if request["stdout"] else subprocess.DEVNULL,
        stderr=subprocess.STDOUT if request["stdout"] else subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509  there is one thread
    )


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Keeper:
    """One client's stay on the board."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.lease: Optional[int] = None
        self.folder: Optional[str] = None

    def answer(self, request: Json) -> Json:
        """What a request comes to."""
        if request["do"] == "lease":
            return self._lease(request)
        if self.folder is None:
            return {"error": "no lease was taken"}
        if request["do"] == "run":
            return run(self.client, os.path.join(self.folder, request["folder"]), request)
        if request["do"] == "keep":
            keep_only(self.folder, request["names"])
        return {"free": shutil.disk_usage(self.folder).free}

    def _lease(self, request: Json) -> Json:
        self.client.silence = request["silence"]
        holder = {"token": request["token"], "owner": request["owner"], "pid": os.getpid(), "since": int(time.time())}
        self.lease, found = take_lease(request["path"], holder)
        if self.lease is None:
            return {"held": found}
        self.folder = work_folder()
        return {"folder": self.folder}

    def beat(self) -> None:
        """A lease in use looks new: who cleans up old files leaves it."""
        if self.lease is not None:
            with contextlib.suppress(OSError):
                os.utime(self.lease)

    def leave(self) -> None:
        """Nothing is left on the board but the file of the lease, which is free, and TensorRT's timing cache."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.lease is not None:
            free_lease(self.lease)


def serve(keeper: Keeper) -> None:
    """Answer requests until the client ends or is gone."""
    keeper.client.say({"ready": platform.python_version(), "python": sys.executable})
    while True:
        request = keeper.client.request()
        if request["do"] == "end":
            return
        if request["do"] == "beat":
            keeper.beat()
            continue
        try:
            answer = keeper.answer(request)
        except OSError as error:
            answer = {"error": str(error)}
        keeper.client.say(answer)


def main() -> None:
    """Serve one client, then leave."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    keeper = Keeper(Client())
    try:
        serve(keeper)
    except GoneError:
        sys.exit(1)
    finally:
        keeper.leave()
    with contextlib.suppress(GoneError):
        keeper.client.say({"ended": True})


if __name__ == "__main__":
    main()

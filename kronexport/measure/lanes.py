"""Calls that run at once, as many as a machine has devices; of one device there is nothing but the caller's thread."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def lanes(width: int) -> Iterator[Executor]:
    """What runs ``width`` calls at once.

    Of several, an error of the caller, Ctrl-C among them, ends the wait for those that run; it is the machine's to end
    what they do.
    """
    if width == 1:
        yield _AtOnce()
        return
    pool = ThreadPoolExecutor(width, thread_name_prefix="kronexport-lane")
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class _AtOnce(Executor):
    """Calls in the caller's own thread, where Ctrl-C arrives: what is interrupted can clean up."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  as every executor does; the caller gets it from the future
            future.set_exception(error)
        return future

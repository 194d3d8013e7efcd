"""Every error that kronexport raises on purpose, and the exit code each one ends a command with.

    KronexportError            1  a bug, or the machine gave out (disk full)
    +-- BoardError             1  a board cannot be reached, is in use, or was lost
    +-- UserInputError         2  something the user gave is wrong: model, weights, shape, goal, target, config
    +-- MissingRuntimeError    3  a runtime or tool that is needed is not installed
    +-- VerificationError      4  a stage does not compute what the stage before it did
    +-- GoalError              5  a goal was missed or could not be measured
    +-- BundleError            6  a bundle is damaged, or does not fit this device

A message says where, what came, what was expected and what to do about it.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class KronexportError(Exception):
    """Base of all; exit code 1."""

    exit_code: ClassVar[int] = 1


class BoardError(KronexportError):
    """A board over SSH cannot be reached, is in use by another, or was lost; what had been measured is kept."""


class UserInputError(KronexportError):
    """Something that the user gave is wrong."""

    exit_code: ClassVar[int] = 2


class MissingRuntimeError(KronexportError):
    """A needed runtime or tool is not installed; the message holds the command that installs it."""

    exit_code: ClassVar[int] = 3


class VerificationError(KronexportError):
    """The outputs of a stage differ from those of the stage before by more than the tolerance."""

    exit_code: ClassVar[int] = 4


class GoalError(KronexportError):
    """A goal was missed or could not be measured."""

    exit_code: ClassVar[int] = 5


class BundleError(KronexportError):
    """A bundle is damaged or incompatible; raised before anything in it is loaded."""

    exit_code: ClassVar[int] = 6


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt no error of anybody's: only the command line catches it."""


@contextmanager
def named(site: str) -> Iterator[None]:
    """A UserInputError raised within gets the name of the site that it is about."""
    try:
        yield
    except UserInputError as error:
        raise UserInputError(f"{site}: {error}") from error


def error_of(exit_code: int) -> type[KronexportError]:
    """The class that a process which ended with ``exit_code`` stands for; the base class where there is none."""
    kinds = (UserInputError, MissingRuntimeError, VerificationError, GoalError, BundleError)
    return next((kind for kind in kinds if kind.exit_code == exit_code), KronexportError)


def as_failure(error: KronexportError | OSError) -> KronexportError:
    """``error`` itself, or what the machine refused as a KronexportError that says where and why."""
    if isinstance(error, KronexportError):
        return error
    remedy = "; free some space or choose another folder with --out" if error.errno == errno.ENOSPC else ""
    return KronexportError(f"{error.filename or 'system'}: {error.strerror or error}{remedy}")

"""A board on loopback for each test, and a client that knows it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.server import Server, known


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with known(tmp_path / "ssh", monkeypatch) as server:
        yield server

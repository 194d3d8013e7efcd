"""A board on loopback for each test, and a client that knows it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.server import Server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The user's own keys and known hosts are neither read nor written."""
    server = Server(tmp_path / "ssh")
    monkeypatch.setenv("HOME", str(server.client))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield server
    server.end()

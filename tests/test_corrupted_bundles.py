"""Two hundred ways in which a bundle can go wrong, seeded: each is refused with exit code 6 before anything is loaded.

All are made of one bundle that was really built. ``kronexport verify`` and ``run.py check`` are called in this process,
with a record of every session that a runtime is asked for; some run in processes of their own, with a runtime that
writes down that it was imported. An altered run.py cannot vouch for itself, so here it is the agent that checks it.
"""

import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from kronexport import agent
from tests.conftest import Built, command

Random = random.Random


@dataclass(frozen=True)
class Kind:
    """One kind of damage: how many are made, what makes one, and what the message has to say."""

    count: int
    damage: Callable[[Path, Random], None]
    words: tuple[str, ...] = ("damaged bundle", "kronexport build")


def some_file(folder: Path, chance: Random) -> Path:
    return chance.choice(sorted(folder.iterdir()))


def seal(folder: Path) -> None:
    """SHA256SUMS again, of the files as they are."""
    paths = [path for path in sorted(folder.iterdir()) if path.name != "SHA256SUMS"]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def rewrite(folder: Path, *, requires: dict[str, Any] | None = None, **changes: Any) -> None:
    """The manifest with other values, its compatibility key and SHA256SUMS rewritten to agree with them."""
    path = folder / "manifest.json"
    value = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    value["requires"] |= requires or {}
    value["compatibility"] = agent.compatibility_key(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    seal(folder)


def flip_a_bit(folder: Path, chance: Random) -> None:
    path = some_file(folder, chance)
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def flip_a_bit_of_the_sums(folder: Path, chance: Random) -> None:
    """Where there is no hash to tell: a digest, a name, a space or the end of a line."""
    path = folder / "SHA256SUMS"
    content = bytearray(path.read_bytes())
    ends = [index for index, byte in enumerate(content) if byte in b" \n"]
    content[chance.choice(ends)] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(folder: Path, chance: Random) -> None:
    path = some_file(folder, chance)
    size = path.stat().st_size
    os.truncate(path, chance.choice([0, size - 1, chance.randrange(size)]))


def swap(folder: Path, chance: Random) -> None:
    first, second = chance.sample(sorted(folder.iterdir()), 2)
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


def swap_and_seal(folder: Path, chance: Random) -> None:
    first, second = chance.sample([path for path in sorted(folder.iterdir()) if path.name != "SHA256SUMS"], 2)
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    seal(folder)


def alter_and_seal(folder: Path, chance: Random) -> None:
    path = folder / chance.choice(["model.onnx", "golden.npz", "run.py"])
    path.write_bytes(path.read_bytes() + chance.randbytes(1))
    seal(folder)


def remove(folder: Path, chance: Random) -> None:
    some_file(folder, chance).unlink()


def add(folder: Path, chance: Random) -> None:
    names = ("numpy.py", ".hidden", "model.engine", "sub/onnxruntime.py", "__pycache__/numpy.pyc", "run.py.bak")
    path = folder / chance.choice(names)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(chance.randbytes(8))


def link(folder: Path, chance: Random) -> None:
    """The same bytes, but from elsewhere."""
    path = some_file(folder, chance)
    elsewhere = folder.parent / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def other_version(folder: Path, chance: Random) -> None:
    major, minor = chance.randrange(1, 999), chance.randrange(99)
    newer = {"version": f"{major + 1000}.{minor}", "rule": "minimum"}
    another = {"version": f"{major}.{minor}.77", "rule": "exact"}
    rewrite(folder, requires=chance.choice([newer, another]))


def other_machine(folder: Path, chance: Random) -> None:
    others = {"aarch64", "armv7l", "riscv64", "ppc64le", "s390x", "x86_64"} - {platform.machine()}
    rewrite(folder, requires={"machine": chance.sample(sorted(others), 2)})


def other_gpu(folder: Path, chance: Random) -> None:
    rewrite(folder, requires={"gpu": [f"nvidia,tegra{chance.randrange(1000, 9999)}"]})


def other_format(folder: Path, chance: Random) -> None:
    rewrite(folder, schema=chance.choice([0, 2, chance.randrange(3, 99), "1", None]))


def requirement_without_its_key(folder: Path, chance: Random) -> None:
    """Someone makes the bundle fit by hand."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["requires"]["version"] = f"0.{chance.randrange(99)}"
    path.write_text(json.dumps(value), encoding="utf-8")
    seal(folder)


INCOMPATIBLE = ("incompatible bundle", "rebuild it for this machine: kronexport build")

KINDS = {
    "bit flipped": Kind(60, flip_a_bit),
    "bit of SHA256SUMS flipped": Kind(20, flip_a_bit_of_the_sums),
    "truncated": Kind(35, truncate),
    "swapped": Kind(10, swap),
    "swapped and sealed": Kind(10, swap_and_seal),
    "altered and sealed": Kind(6, alter_and_seal),
    "removed": Kind(10, remove),
    "added": Kind(12, add),
    "linked": Kind(5, link),
    "other runtime version": Kind(10, other_version, (*INCOMPATIBLE, "it needs onnxruntime")),
    "other architecture": Kind(6, other_machine, (*INCOMPATIBLE, "this machine is " + platform.machine())),
    "other GPU": Kind(6, other_gpu, (*INCOMPATIBLE, "it is for the GPU ['nvidia,tegra")),
    "other format": Kind(6, other_format, ("is not of schema 1 but of", "kronexport build")),
    "requirement without its key": Kind(4, requirement_without_its_key, ("has the compatibility key",)),
}

CASES = [(kind, seed) for kind, how in KINDS.items() for seed in range(how.count)]


@pytest.fixture
def bundle(built: Built, tmp_path: Path) -> Path:
    return shutil.copytree(built.folder / "x86-onnxruntime", tmp_path / "bundle")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The model of every session that ONNX Runtime is asked for."""
    opened: list[object] = []
    real = onnxruntime.InferenceSession

    def recorded(model: object, *arguments: Any, **options: Any) -> Any:
        opened.append(model)
        return real(model, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    return opened


def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """``run.py check`` of ``folder`` in this process."""
    with monkeypatch.context() as patch:
        patch.setattr(agent, "__file__", str(folder / "run.py"))
        return agent.main(["check"])


def test_there_are_two_hundred() -> None:
    assert len(CASES) == 200


def test_the_whole_bundle_passes_and_its_sessions_are_seen(
    bundle: Path, sessions: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nothing below would mean anything."""
    assert command("verify", bundle).code == 0
    assert check(bundle, monkeypatch) == 0
    assert sessions == [str(bundle / "model.onnx")] * 2
    rewrite(bundle)
    assert command("verify", bundle).code == 0, "the manifest is rewritten into one that is no longer consistent"


@pytest.mark.parametrize("case", CASES, ids=[f"{kind} {seed}" for kind, seed in CASES])
def test_a_corrupted_bundle_is_refused_before_it_is_loaded(
    case: tuple[str, int],
    bundle: Path,
    sessions: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind, seed = case
    KINDS[kind].damage(bundle, Random(f"{kind} {seed}"))
    verified = command("verify", bundle)
    checked = check(bundle, monkeypatch)
    said = capsys.readouterr()
    assert (verified.code, checked) == (6, 6), verified.err + said.err
    for word in KINDS[kind].words:
        assert word in verified.err
        assert word in said.err
    assert (verified.out, said.out) == ("", "")
    assert sessions == []


# --- in processes of their own ------------------------------------------------------------------------------------

RUNTIME = """
import os

def tell(what):
    with open(os.environ["TOLD"], "a") as stream:
        stream.write(what + "\\n")

tell("imported")
__version__ = "999.0"

def __getattr__(name):
    if not name.startswith("__"):
        tell(name)
    raise AttributeError(name)
"""
"""An onnxruntime that writes down that it was imported, and what of it was used."""


@dataclass(frozen=True)
class Told:
    """How a process ended, and what the runtime has written down."""

    code: int
    err: str
    runtime: list[str]


def in_a_process(folder: Path, *words: str) -> Told:
    """Python with ``words``, where the runtime is the one above."""
    site = folder.parent / "site"
    site.mkdir()
    (site / "onnxruntime.py").write_text(RUNTIME, encoding="utf-8")
    told = folder.parent / "told"
    told.touch()
    environment = {**os.environ, "PYTHONPATH": str(site), "TOLD": str(told)}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    return Told(done.returncode, done.stderr, told.read_text(encoding="utf-8").split())


def test_the_stub_runtime_sees_what_is_asked_of_it(bundle: Path) -> None:
    told = in_a_process(bundle, str(bundle / "run.py"), "check")
    assert told.runtime[0] == "imported"
    assert "SessionOptions" in told.runtime


@pytest.mark.parametrize("kind", ["truncated", "added", "swapped and sealed", "other architecture", "other GPU"])
def test_run_py_refuses_it_without_importing_the_runtime(bundle: Path, kind: str) -> None:
    KINDS[kind].damage(bundle, Random(1))
    if (bundle / "run.py").read_bytes() != Path(agent.__file__).read_bytes():
        pytest.fail("choose a seed that leaves run.py as it is")
    told = in_a_process(bundle, str(bundle / "run.py"), "check")
    assert (told.code, told.runtime) == (6, []), told.err


def test_run_py_asks_the_runtime_for_nothing_but_its_version(bundle: Path) -> None:
    rewrite(bundle, requires={"version": "1000.0"})
    told = in_a_process(bundle, str(bundle / "run.py"), "check")
    assert (told.code, told.runtime) == (6, ["imported"]), told.err
    assert "it needs onnxruntime 1000.0 (minimum), installed is 999.0" in told.err


def test_verify_refuses_it_without_importing_the_runtime(bundle: Path) -> None:
    KINDS["other GPU"].damage(bundle, Random(0))
    told = in_a_process(bundle, "-m", "kronexport", "verify", str(bundle))
    assert (told.code, told.runtime) == (6, []), told.err


@pytest.mark.parametrize("name", ["numpy.py", "json.py", "onnxruntime.py"])
def test_run_py_imports_nothing_that_lies_beside_it(bundle: Path, name: str) -> None:
    """Python looks there first: what was added would run before it is found."""
    (bundle / name).write_text("raise SystemExit('the added file ran')", encoding="utf-8")
    told = in_a_process(bundle, str(bundle / "run.py"), "check")
    assert told.code == 6, told.err
    assert f"does not list ['{name}']" in told.err

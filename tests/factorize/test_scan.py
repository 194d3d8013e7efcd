"""The scan: the same from the disk as computed, side by side as one by one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kronexport.factorize import scan as scanning
from kronexport.factorize.scan import ErrorScan, all_errors
from kronexport.factorize.spectra import Spectrum, squared_errors
from kronexport.records import Structure

SHAPES = {"stem": (8, 3, 5, 5), "wide": (16, 16, 3, 3), "point": (12, 10, 1, 1), "none": (7, 1, 1, 1)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test, empty."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path))
    return tmp_path / "scan"


def weights() -> dict[str, NDArray[Any]]:
    """Of a network's sites, one of which has no structure."""
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def refuse(_weight: NDArray[Any], _check: Callable[[], None]) -> dict[Structure, Spectrum]:
    """In place of ``squared_errors`` where nothing may be computed."""
    raise AssertionError("computed again")


def same(one: Mapping[Structure, Spectrum], other: Mapping[Structure, Spectrum]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[unit], other[unit]) for unit in one)


def test_a_second_scan_reads_what_the_first_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file a weight, and not a bit of difference."""
    first = {name: all_errors(weight) for name, weight in weights().items()}
    assert len(list(folder.iterdir())) == len(SHAPES)
    monkeypatch.setattr(scanning, "squared_errors", refuse)
    assert all(same(all_errors(weight), first[name]) for name, weight in weights().items())


def test_only_the_same_weight_is_found_again() -> None:
    """Neither one with a bit changed nor one of another shape is answered from the cache."""
    weight = weights()["wide"]
    all_errors(weight)
    changed = weight.copy()
    changed[0, 0, 0, 0] += 1
    for other in (changed, weight.reshape(16, 144, 1, 1)):
        assert same(all_errors(other), squared_errors(other))


def test_a_damaged_file_is_computed_again(folder: Path) -> None:
    """Cut off, empty, no zip at all, of other length, or with any one of its bytes flipped."""
    weight = weights()["point"]
    true = all_errors(weight)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    other = all_errors(weights()["stem"])
    damaged = [b"", b"no zip", whole[:-30], whole[: len(whole) // 2], scanning._packed(other)]
    damaged += [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    for content in damaged:
        file.write_bytes(content)
        assert same(all_errors(weight), true)


def test_sites_side_by_side_give_what_each_gives_alone() -> None:
    """And progress begins at none, ends at all and misses none, however many workers there are."""
    told: list[tuple[str, int, int]] = []
    scan = ErrorScan(weights())
    scan.prefetch(lambda *step: told.append(step))
    assert told == [("scan", done, len(SHAPES)) for done in range(len(SHAPES) + 1)]
    for name, weight in weights().items():
        for unit, spectrum in squared_errors(weight).items():
            assert np.array_equal(scan.errors(name, unit), spectrum)


def test_what_goes_wrong_in_a_worker_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "squared_errors", refuse)
    with pytest.raises(AssertionError, match="computed again"):
        ErrorScan(weights()).prefetch(lambda *_step: None)


def test_an_interrupted_scan_waits_for_no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the calling thread, here in its callback; a site that would go on for ever is given up."""

    def endless(weight: NDArray[Any], check: Callable[[], None]) -> dict[Structure, Spectrum]:
        while weight.shape == SHAPES["none"]:
            check()
        return squared_errors(weight, check)

    def interrupt(_stage: str, done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(scanning, "squared_errors", endless)
    with pytest.raises(KeyboardInterrupt):
        ErrorScan(weights()).prefetch(interrupt)


def test_an_unwritable_cache_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path / "file"))
    weight = weights()["wide"]
    assert same(all_errors(weight), squared_errors(weight))


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_a_weight_that_float32_cannot_hold_is_scanned(scale: float) -> None:
    """As the same weight of another scale is."""
    weight = np.random.default_rng(0).standard_normal(SHAPES["wide"])
    for unit, errors in all_errors(weight * scale).items():
        np.testing.assert_allclose(errors, all_errors(weight)[unit], atol=2e-6)

"""The scan: the same from the disk as computed, side by side as one by one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kronexport.factorize.decompose import decompose
from kronexport.factorize.network import relative_error
from kronexport.factorize.scan import SCANNED, ErrorScan, ErrorTable, _packed, all_errors, method_errors
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


Errors = Callable[[NDArray[Any], Callable[[], None]], Mapping[Structure, ErrorTable]]


def refuse(_weight: NDArray[Any], _check: Callable[[], None]) -> dict[Structure, ErrorTable]:
    """In place of what computes where nothing may be computed."""
    raise AssertionError("computed again")


def put(monkeypatch: pytest.MonkeyPatch, method: str, errors: Errors) -> None:
    """Let ``method`` compute its tables by ``errors``."""
    monkeypatch.setitem(SCANNED, method, replace(SCANNED[method], errors=errors))


def computed(weight: NDArray[Any]) -> dict[Structure, ErrorTable]:
    """The tables of every method without the cache."""
    found = [method.errors(weight, lambda: None) for method in SCANNED.values()]
    return {unit: table for tables in found for unit, table in tables.items()}


def same(one: Mapping[Structure, ErrorTable], other: Mapping[Structure, ErrorTable]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[unit], other[unit]) for unit in one)


def test_a_second_scan_reads_what_the_first_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file for each weight and each method that has structures of it, and not a bit of difference."""
    first = {name: all_errors(weight) for name, weight in weights().items()}
    methods = [{unit.method for unit in tables} for tables in first.values()]
    assert methods == [{"gkpd", "cp", "tucker2"}, {"gkpd", "cp", "tucker2"}, {"gkpd"}, set()]
    assert len(list(folder.iterdir())) == sum(map(len, methods))
    for method in SCANNED:
        put(monkeypatch, method, refuse)
    assert all(same(all_errors(weight), first[name]) for name, weight in weights().items())


def test_only_the_same_weight_is_found_again() -> None:
    """Neither one with a bit changed nor one of another shape is answered from the cache."""
    weight = weights()["wide"]
    all_errors(weight)
    changed = weight.copy()
    changed[0, 0, 0, 0] += 1
    for other in (changed, weight.reshape(16, 144, 1, 1)):
        assert same(all_errors(other), computed(other))


def test_a_damaged_file_is_computed_again(folder: Path) -> None:
    """Cut off, empty, no zip at all, of other length, or with any one of its bytes flipped."""
    weight = weights()["point"]
    true = all_errors(weight)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    other = method_errors("gkpd", weights()["stem"])
    damaged = [b"", b"no zip", whole[:-30], whole[: len(whole) // 2], _packed(other)]
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
        for unit, table in computed(weight).items():
            assert np.array_equal(scan.errors(name, unit), table)


def test_what_goes_wrong_in_a_worker_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "gkpd", refuse)
    with pytest.raises(AssertionError, match="computed again"):
        ErrorScan(weights()).prefetch(lambda *_step: None)


def test_an_interrupted_scan_waits_for_no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the calling thread, here in its callback; a site that would go on for ever is given up."""
    given = SCANNED["gkpd"].errors

    def endless(weight: NDArray[Any], check: Callable[[], None]) -> Mapping[Structure, ErrorTable]:
        while weight.shape == SHAPES["point"]:
            check()
        return given(weight, check)

    def interrupt(_stage: str, done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    put(monkeypatch, "gkpd", endless)
    with pytest.raises(KeyboardInterrupt):
        ErrorScan(weights()).prefetch(interrupt)


def test_an_unwritable_cache_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path / "file"))
    weight = weights()["wide"]
    assert same(all_errors(weight), computed(weight))


def test_an_entry_of_a_table_is_the_error_at_those_ranks() -> None:
    """One axis a rank axis: a table of Tucker-2 has two, its entries are near what decompose reaches."""
    weight = weights()["wide"]
    for unit, table in all_errors(weight).items():
        assert table.ndim == len(unit.ranks)
        if unit.method == "gkpd" and unit.factors[0].size != (16, 1, 1, 1):
            continue
        ranks = tuple(size // 6 for size in table.shape)
        reached = relative_error(weight, decompose(weight, replace(unit, ranks=ranks)).to_dense()) ** 2
        assert 0.97 * reached <= table[tuple(rank - 1 for rank in ranks)] <= 1.2 * reached


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_a_weight_that_float32_cannot_hold_is_scanned(scale: float) -> None:
    """As the same weight of another scale is."""
    weight = np.random.default_rng(0).standard_normal(SHAPES["wide"])
    for unit, errors in all_errors(weight * scale).items():
        np.testing.assert_allclose(errors, all_errors(weight)[unit], atol=2e-6 if unit.method != "cp" else 1e-3)

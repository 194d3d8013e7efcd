from pathlib import Path

import numpy as np
import pytest

from kronexport.errors import KronexportError
from kronexport.ship.golden import Golden, write_golden

IMAGE = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)


def test_arrays_are_stored_under_their_role_and_name(tmp_path: Path) -> None:
    write_golden(Golden({"x": IMAGE}, {"y": 2 * IMAGE, "z": 3 * IMAGE}), tmp_path / "golden.npz")
    with np.load(tmp_path / "golden.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["input:x", "output:y", "output:z"]
        np.testing.assert_array_equal(archive["output:z"], 3 * IMAGE)
        assert archive["input:x"].dtype == np.float32


def test_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_golden(Golden({"x": IMAGE}, {"y": IMAGE}), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        (Golden({"x": IMAGE}, {}), "1 inputs and 0 outputs"),
        (Golden({"x": IMAGE}, {"y": IMAGE * np.float32("nan")}), "output:y holds NaN"),
    ],
)
def test_data_to_which_nothing_can_be_compared_is_refused(tmp_path: Path, golden: Golden, message: str) -> None:
    with pytest.raises(KronexportError, match=message):
        write_golden(golden, tmp_path / "golden.npz")
    assert not list(tmp_path.iterdir())

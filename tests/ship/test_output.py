from pathlib import Path

import pytest

from kronexport.errors import KronexportError, UserInputError
from kronexport.files import TEMP_PREFIX
from kronexport.ship.output import is_bundle, prepare_output


def make_bundle(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("manifest.json", "SHA256SUMS", "model.onnx"):
        (folder / name).touch()


def test_missing_folder_is_made_and_every_part_has_its_place(tmp_path: Path) -> None:
    out = tmp_path / "a" / "dist"
    folder = prepare_output(out)
    assert folder.root.is_dir()
    assert [
        path.relative_to(out).as_posix()
        for path in (
            folder.report_json,
            folder.report_html,
            folder.config,
            folder.dense_onnx,
            folder.bundle("cpu"),
            folder.portable_onnx("cpu"),
            folder.factors("cpu"),
            folder.plan("cpu"),
        )
    ] == [
        "report.json",
        "report.html",
        "config.toml",
        "intermediates/dense.onnx",
        "cpu",
        "intermediates/cpu/portable.onnx",
        "intermediates/cpu/factors.safetensors",
        "intermediates/cpu/plan.toml",
    ]


def test_earlier_output_is_accepted_with_all_its_parts_kept(tmp_path: Path) -> None:
    folder = prepare_output(tmp_path)
    make_bundle(folder.bundle("x86-onnxruntime"))
    folder.report_json.write_text("{}")
    folder.config.write_text("")
    folder.intermediates("x86-onnxruntime").mkdir()
    prepare_output(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "config.toml",
        "intermediates",
        "report.json",
        "x86-onnxruntime",
    ]
    assert is_bundle(folder.bundle("x86-onnxruntime"))


def test_bundle_alone_says_whose_output_it_is(tmp_path: Path) -> None:
    make_bundle(tmp_path / "x86-onnxruntime")
    (tmp_path / "report.json").touch()
    prepare_output(tmp_path)


def test_foreign_files_are_refused_by_name_and_untouched(tmp_path: Path) -> None:
    prepare_output(tmp_path)
    for index in range(7):
        (tmp_path / f"thesis{index}.tex").touch()
    with pytest.raises(
        UserInputError, match=r"thesis0\.tex, .*thesis4\.tex and 2 more.*choose another --out"
    ) as caught:
        prepare_output(tmp_path)
    assert "thesis5" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert (tmp_path / "thesis6.tex").exists()


@pytest.mark.parametrize("name", ["config.toml", "report.html"])
def test_a_file_of_a_known_name_in_a_folder_that_is_not_ours_is_foreign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("the user's own")
    with pytest.raises(UserInputError, match=name):
        prepare_output(tmp_path)
    assert (tmp_path / name).read_text() == "the user's own"


def test_folder_that_is_no_bundle_is_foreign(tmp_path: Path) -> None:
    prepare_output(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserInputError, match="photos"):
        prepare_output(tmp_path)


def test_leftovers_of_a_killed_run_are_cleaned_at_every_level(tmp_path: Path) -> None:
    folder = prepare_output(tmp_path)
    folder.intermediates("cpu").mkdir()
    leftovers = [
        place / f"{TEMP_PREFIX}1f-x" for place in (tmp_path, tmp_path / "intermediates", folder.intermediates("cpu"))
    ]
    for leftover in leftovers:
        leftover.mkdir()
        (leftover / "half").touch()
    prepare_output(tmp_path)
    assert not any(leftover.exists() for leftover in leftovers)


def test_first_run_that_met_a_full_disk_does_not_lock_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(KronexportError, match="disk full"):
            prepare_output(tmp_path)
    prepare_output(tmp_path)


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(UserInputError, match="choose another --out"):
            prepare_output(out)

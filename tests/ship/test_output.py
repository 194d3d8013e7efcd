import shutil
from pathlib import Path

import pytest

from kronexport.errors import KronexportError, UserInputError
from kronexport.files import TEMP_PREFIX
from kronexport.ship.output import OutputFolder, is_bundle, prepare_output, remove_stale


def prepared(out: Path) -> OutputFolder:
    """The folder as a build finds it, let go again."""
    with prepare_output(out) as output:
        return output


def make_bundle(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(f'{{"target": "{folder.name}"}}')
    for name in ("SHA256SUMS", "model.onnx"):
        (folder / name).touch()


def make_intermediates(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "plan.toml").write_text(f'target = "{folder.name}"\n')


def test_missing_folder_is_made_and_every_part_has_its_place(tmp_path: Path) -> None:
    out = tmp_path / "a" / "dist"
    folder = prepared(out)
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
    folder = prepared(tmp_path)
    make_bundle(folder.bundle("x86-onnxruntime"))
    folder.report_json.write_text("{}")
    folder.config.write_text("")
    folder.intermediates("x86-onnxruntime").mkdir()
    prepared(tmp_path)
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
    prepared(tmp_path)


def test_foreign_files_are_refused_by_name_and_untouched(tmp_path: Path) -> None:
    prepared(tmp_path)
    for index in range(7):
        (tmp_path / f"thesis{index}.tex").touch()
    with pytest.raises(
        UserInputError, match=r"thesis0\.tex, .*thesis4\.tex and 2 more.*choose another --out"
    ) as caught:
        prepared(tmp_path)
    assert "thesis5" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert (tmp_path / "thesis6.tex").exists()


@pytest.mark.parametrize("name", ["config.toml", "report.html"])
def test_a_file_of_a_known_name_in_a_folder_that_is_not_ours_is_foreign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("the user's own")
    with pytest.raises(UserInputError, match=name):
        prepared(tmp_path)
    assert (tmp_path / name).read_text() == "the user's own"


def test_folder_that_is_no_bundle_is_foreign(tmp_path: Path) -> None:
    prepared(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserInputError, match="photos"):
        prepared(tmp_path)


def test_leftovers_of_a_killed_run_are_cleaned_at_every_level(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    folder.intermediates("cpu").mkdir()
    leftovers = [
        place / f"{TEMP_PREFIX}1f-x" for place in (tmp_path, tmp_path / "intermediates", folder.intermediates("cpu"))
    ]
    for leftover in leftovers:
        leftover.mkdir()
        (leftover / "half").touch()
    prepared(tmp_path)
    assert not any(leftover.exists() for leftover in leftovers)


def test_first_run_that_met_a_full_disk_does_not_lock_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(KronexportError, match="disk full"):
            prepared(tmp_path)
    prepared(tmp_path)


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(UserInputError, match="choose another --out"):
            prepared(out)


def test_two_builds_at_once_are_refused(tmp_path: Path) -> None:
    """The second would delete what the first has not finished."""
    with prepare_output(tmp_path / "out") as first, first.work_folder("cpu") as work:
        with pytest.raises(UserInputError, match="another build is writing to it"):
            prepared(tmp_path / "out")
        assert work.is_dir()
    prepared(tmp_path / "out")


def test_what_the_report_does_not_tell_of_is_removed(tmp_path: Path) -> None:
    """A bundle of an earlier build would be compared with another model's dense network."""
    output = prepared(tmp_path / "out")
    for target in ("old", "new"):
        make_bundle(output.bundle(target))
        make_intermediates(output.intermediates(target))
    remove_stale(output, {"new"})
    assert not output.bundle("old").exists()
    assert not output.intermediates("old").exists()
    assert output.bundle("new").is_dir()
    assert output.intermediates("new").is_dir()


def test_what_the_user_put_there_meanwhile_stays(tmp_path: Path) -> None:
    """A copy of a bundle under another name, a link to one, a damaged one, and files that are of no build."""
    output = prepared(tmp_path / "out")
    for target in ("old", "new"):
        make_bundle(output.bundle(target))
        make_intermediates(output.intermediates(target))
    for folder in (output.root, output.root / "intermediates"):
        shutil.copytree(folder / "old", folder / "keep-v1")
        (folder / "latest").symlink_to("new")
        (folder / "notes").mkdir()
    (tmp_path / "elsewhere").mkdir()
    make_bundle(tmp_path / "elsewhere" / "linked")
    (output.root / "linked").symlink_to(tmp_path / "elsewhere" / "linked")
    make_bundle(output.bundle("damaged"))
    (output.bundle("damaged") / "manifest.json").write_text("{")
    remove_stale(output, {"new"})
    assert sorted(entry.name for entry in output.root.iterdir()) == [
        "damaged",
        "intermediates",
        "keep-v1",
        "latest",
        "linked",
        "new",
        "notes",
    ]
    assert {"keep-v1", "latest", "new", "notes"} <= {
        entry.name for entry in output.intermediates("new").parent.iterdir()
    }
    assert is_bundle(tmp_path / "elsewhere" / "linked")


def interrupted(out: Path, *, after: str | None = None) -> None:
    with prepare_output(out) as output, output.work_folder("cpu") as work:
        (work / "half").touch()
        if after is not None:
            (output.root / after).touch()
        raise KeyboardInterrupt


def test_a_new_folder_that_nothing_came_to_is_gone(tmp_path: Path) -> None:
    """One that was there before stays, and so does what has come."""
    (tmp_path / "old").mkdir()
    for name, after in (("new", None), ("old", None), ("filled", "report.json")):
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path / name, after=after)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["filled", "old"]

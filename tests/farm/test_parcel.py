"""Jobs travel whole: what a worker unpacks is what was packed, in another folder."""

from pathlib import Path

from kronexport.farm.parcel import outputs_of, packed, unpacked
from tests.machines.jobs import bench_job, infer_job


def test_a_job_comes_out_with_its_files_where_it_is_unpacked(tmp_path: Path) -> None:
    """No path of the sender is in what travels."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    job = bench_job(tmp_path / "here")
    moved, files = packed([job])
    assert str(tmp_path) not in str((moved, list(files)))
    (placed,) = unpacked(moved, files, tmp_path / "there")
    (model,) = placed["models"]
    assert Path(model["path"]).read_bytes() == Path(job["models"][0]["path"]).read_bytes()
    assert Path(model["path"]).is_relative_to(tmp_path / "there")
    assert {**placed, "models": []} == {**job, "models": []}


def test_a_file_that_two_jobs_read_travels_once(tmp_path: Path) -> None:
    job = bench_job(tmp_path)
    _, files = packed([job, {**job, "seed": 1}])
    assert len(files) == 1


def test_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    """They are told by what is in them."""
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "model.onnx")
        paths[-1].write_text(name, encoding="utf-8")
    models = [{"name": path.parent.name, "path": str(path)} for path in paths]
    moved, files = packed([{"task": "race", "models": models}])
    assert sorted(files.values()) == [b"a", b"b"]
    (placed,) = unpacked(moved, files, tmp_path)
    assert [Path(model["path"]).read_text(encoding="utf-8") for model in placed["models"]] == ["a", "b"]


def test_weights_beside_an_openvino_model_travel_with_it(tmp_path: Path) -> None:
    for suffix in (".xml", ".bin"):
        (tmp_path / f"model{suffix}").write_text(suffix, encoding="utf-8")
    moved, files = packed([{"task": "bench", "models": [{"name": "a", "path": str(tmp_path / "model.xml")}]}])
    (placed,) = unpacked(moved, files, tmp_path)
    assert Path(placed["models"][0]["path"]).with_suffix(".bin").read_text(encoding="utf-8") == ".bin"


def test_outputs_are_read_where_the_job_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    moved, files = packed([infer_job(tmp_path / "here"), bench_job(tmp_path / "here")])
    placed = unpacked(moved, files, tmp_path / "there")
    Path(placed[0]["outputs_npz"]).write_bytes(b"outputs")
    assert outputs_of(placed) == [b"outputs", None]

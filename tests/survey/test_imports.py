import sys
from pathlib import Path

import pytest

from kronexport.errors import Terminated, UserInputError
from kronexport.survey.imports import call_user, load_callable


def refusal(spec: str) -> str:
    with pytest.raises(UserInputError) as caught:
        load_callable(spec, "MODEL")
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with sys.path put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_module_in_the_current_folder(folder: Path) -> None:
    (folder / "nets_here.py").write_text("def model():\n    return 4")
    assert load_callable("nets_here:model", "MODEL")() == 4


def test_dotted_module() -> None:
    assert load_callable("collections.abc:Sequence", "MODEL").__name__ == "Sequence"


@pytest.mark.parametrize("spec", ["", "resnet18", "pkg.mod:", ":factory", "pkg.mod:a b", "net.py"])
def test_malformed_spec_says_the_two_forms(spec: str) -> None:
    assert "pkg.mod:NAME or path/file.py:NAME" in refusal(spec)


def test_missing_file_suggests_one_beside_it(folder: Path) -> None:
    (folder / "models.py").write_text("")
    message = refusal("model.py:net")
    assert "model.py does not exist" in message
    assert "'models.py'" in message


def test_folder_instead_of_a_file(folder: Path) -> None:
    (folder / "nets").mkdir()
    assert "is a folder; expected a Python file" in refusal("./nets:model")


def test_missing_module_says_where_it_was_looked_for() -> None:
    message = refusal("no_such_pkg.models:net")
    assert "no module 'no_such_pkg'" in message
    assert "current folder" in message


def test_missing_dependency_is_told_from_a_missing_module(folder: Path) -> None:
    (folder / "needs_it.py").write_text("import math\nimport not_there_at_all\n")
    for spec in ("needs_it:model", "needs_it.py:model"):
        message = refusal(spec)
        assert "needs_it.py:2" in message
        assert "install what provides 'not_there_at_all'" in message


@pytest.mark.parametrize("spec", ["raises_here:model", "raises_here.py:model"])
def test_import_that_raises_shows_the_users_line(folder: Path, spec: str) -> None:
    (folder / "raises_here.py").write_text("WIDTH = 3\nDEPTH = WIDTH // 0\n")
    message = refusal(spec)
    assert "ZeroDivisionError" in message
    assert f"{folder / 'raises_here.py'}:2" in message
    assert "DEPTH = WIDTH // 0" in message


def test_import_that_exits_is_a_message(folder: Path) -> None:
    (folder / "script.py").write_text("import sys\nsys.exit(3)\n")
    assert "script.py:2" in refusal("script.py:model")


def test_syntax_error_shows_its_line(folder: Path) -> None:
    (folder / "broken.py").write_text("x = 1\ndef model(:\n")
    message = refusal("broken.py:model")
    assert "broken.py:2 is not Python" in message


def test_syntax_error_in_a_sibling_shows_that_file(folder: Path) -> None:
    (folder / "net.py").write_text("from .blocks import Block\n")
    (folder / "blocks.py").write_text("\n\nclass Block(\n")
    assert "blocks.py:3" in refusal("net.py:model")


@pytest.mark.parametrize("content", [b"\x00\x01\x02\xff", b"\xff\xfe\x00\x80 def", b"PK\x03\x04\x00"])
def test_binary_file_is_not_python(folder: Path, content: bytes) -> None:
    (folder / "net.py").write_bytes(content)
    assert "is not Python" in refusal("net.py:model")


def test_file_of_another_kind(folder: Path) -> None:
    (folder / "net.onnx").write_bytes(b"abc")
    assert "net.onnx is not a Python file" in refusal("net.onnx:model")


def test_missing_name_suggests_close_ones(folder: Path) -> None:
    (folder / "zoo.py").write_text("def resnet18(): ...\ndef vgg(): ...\n")
    assert "did you mean 'resnet18'?" in refusal("zoo.py:resnet81")


def test_missing_name_lists_the_callables(folder: Path) -> None:
    (folder / "zoo2.py").write_text("from math import sqrt\nWIDTH = 3\ndef resnet18(): ...\nclass Net: ...\n")
    assert refusal("zoo2.py:q").endswith("there are resnet18, Net")


def test_not_callable(folder: Path) -> None:
    (folder / "values.py").write_text("model = {'weights': 1}\ndef build(): ...\n")
    message = refusal("values.py:model")
    assert "is a dict, not a function" in message
    assert "there are build" in message


def test_current_folder_goes_last_afterwards(folder: Path) -> None:
    """It must not shadow what is imported later."""
    load_callable("math:sqrt", "MODEL")
    assert sys.path[0] != str(folder)
    assert sys.path[-1] == str(folder)


def test_sigterm_is_not_blamed_on_the_users_function() -> None:
    def stopped() -> None:
        raise Terminated

    with pytest.raises(Terminated):
        call_user(stopped, doing="the forward")


def test_what_the_users_function_raises_is_shown_at_the_users_last_line(folder: Path) -> None:
    """Not at the line of the library that noticed it."""
    (folder / "calls.py").write_text("import json\ndef score(text):\n    return json.loads(text)\n")
    with pytest.raises(UserInputError, match=r"score 'x': raised JSONDecodeError: .*calls\.py:3, in score") as caught:
        call_user(load_callable("calls.py:score", "--evaluate"), "x", doing="score 'x'")
    assert caught.value.__cause__ is not None

"""A user's own file must behave as it does for its author, and never touch what else is imported."""

import sys
import types
from pathlib import Path

import pytest

from kronexport.survey.user_files import import_file


def write(folder: Path, files: dict[str, str]) -> Path:
    """Writes ``files`` (path: source) below ``folder`` and returns it."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


@pytest.mark.parametrize("statement", ["from .siblings_of_net import VALUE", "from siblings_of_net import VALUE"])
@pytest.mark.parametrize("init", [{}, {"__init__.py": ""}], ids=["loose folder", "package"])
def test_sibling_is_imported(tmp_path: Path, statement: str, init: dict[str, str]) -> None:
    write(tmp_path, {"net.py": statement, "siblings_of_net.py": "VALUE = 7"} | init)
    assert import_file(tmp_path / "net.py").VALUE == 7


def test_relative_and_plain_import_give_the_same_module(tmp_path: Path) -> None:
    write(
        tmp_path, {"net.py": "import siblings_of_net\nfrom . import siblings_of_net as other", "siblings_of_net.py": ""}
    )
    module = import_file(tmp_path / "net.py")
    assert module.siblings_of_net is module.other


def test_plain_import_of_a_dotted_name_binds_its_top_module(tmp_path: Path) -> None:
    write(tmp_path, {"net.py": "import parts.deep\nVALUE = parts.deep.VALUE", "parts/deep.py": "VALUE = 3"})
    assert import_file(tmp_path / "net.py").VALUE == 3


def test_import_inside_a_function_works_later(tmp_path: Path) -> None:
    write(tmp_path, {"net.py": "def model():\n    import late\n    return late.VALUE", "late.py": "VALUE = 5"})
    assert import_file(tmp_path / "net.py").model() == 5


def test_package_above_is_reached_by_relative_and_by_its_own_name(tmp_path: Path) -> None:
    write(
        tmp_path / "userpkg",
        {
            "__init__.py": "from userpkg.common import WIDTH",
            "common.py": "WIDTH = 16",
            "nets/__init__.py": "",
            "nets/net.py": (
                "from ..common import WIDTH\nfrom userpkg.common import WIDTH as SAME\nfrom userpkg import nets"
            ),
        },
    )
    module = import_file(tmp_path / "userpkg" / "nets" / "net.py")
    assert (module.WIDTH, module.SAME) == (16, 16)
    assert module.nets.__path__


def test_sibling_named_like_a_loaded_package_is_the_users(tmp_path: Path) -> None:
    write(tmp_path, {"net.py": "import yaml, onnx\nFROM = onnx.__file__", "onnx.py": "", "yaml.py": ""})
    module = import_file(tmp_path / "net.py")
    assert tmp_path.resolve() / "onnx.py" == Path(module.FROM)


def test_file_named_like_an_installed_package_still_imports_that_package(tmp_path: Path) -> None:
    write(tmp_path, {"torch.py": "import torch\nimport torch.nn\nTensor = torch.Tensor"})
    module = import_file(tmp_path / "torch.py")
    assert module.Tensor is sys.modules["torch"].Tensor


def test_library_and_user_each_get_their_own_module_of_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that the user's file imports first must not be given the user's file of that name."""
    write(tmp_path / "installed", {"some_lib.py": "import helpers_x", "helpers_x.py": "OWNER = 'library'"})
    write(tmp_path / "mine", {"net.py": "import some_lib, helpers_x", "helpers_x.py": "OWNER = 'user'"})
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    module = import_file(tmp_path / "mine" / "net.py")
    assert (module.some_lib.helpers_x.OWNER, module.helpers_x.OWNER) == ("library", "user")
    del sys.modules["some_lib"], sys.modules["helpers_x"]


def test_nothing_public_is_left_behind(tmp_path: Path) -> None:
    write(tmp_path, {"net.py": "import blocks_of_mine", "blocks_of_mine.py": ""})
    path_before, names_before = list(sys.path), set(sys.modules)
    import_file(tmp_path / "net.py")
    assert sys.path == path_before
    assert all(name.startswith("_kronexport_user_") for name in set(sys.modules) - names_before)


def test_file_name_that_is_no_identifier(tmp_path: Path) -> None:
    write(tmp_path, {"my-net.v2.py": "from .siblings_of_net import VALUE", "siblings_of_net.py": "VALUE = 1"})
    assert import_file(tmp_path / "my-net.v2.py").VALUE == 1


def test_package_file_itself(tmp_path: Path) -> None:
    write(tmp_path, {"__init__.py": "from .siblings_of_net import VALUE", "siblings_of_net.py": "VALUE = 2"})
    module = import_file(tmp_path / "__init__.py")
    assert isinstance(module, types.ModuleType)
    assert module.VALUE == 2


def test_second_import_gives_the_same_module(tmp_path: Path) -> None:
    write(tmp_path, {"net.py": ""})
    assert import_file(tmp_path / "net.py") is import_file(tmp_path / "net.py")

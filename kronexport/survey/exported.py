"""MODEL as a ``.pt2``: a program of torch.export -> an nn.Module with its convolutions where they were in the model.

The graph of a program calls functions: ``aten.conv2d(x, weight, bias, ...)``, with a weight that it reads from
``layer1.0.conv.weight``. Such a call becomes one of an nn.Conv2d at ``layer1.0.conv``, a linear one of an nn.Linear;
everything else stays the operator that it is. What the graph computes is the same, operator by operator.
"""

import contextlib
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.operator_schemas import normalize_function

from kronexport.errors import UserInputError
from kronexport.survey.imports import describe

if TYPE_CHECKING:
    from torch.utils._pytree import TreeSpec

SUFFIX = ".pt2"
_PICKLED = ("custom_obj_", "opaque_obj_")
"""How entries of an archive begin that hold Python objects."""

Dim = int | None
"""A size of the input; None where the program takes several."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A program as a module in eval mode, and the shape of the input that it was exported for."""

    module: nn.Module
    input_shape: tuple[Dim, ...]


def load_exported(path: Path) -> Exported:
    """Reads what ``torch.export.save`` wrote; no code of the file is run.

    Raises:
        UserInputError: no such file, damaged or of another kind, exported in training mode, or its input is not one
            float32 tensor.
    """
    program = _read(path)
    shape = _input_shape(program, path)
    _check_inference(program, path)
    return Exported(_with_layers(program.module(check_guards=False)), shape)


def _with_layers(program: fx.GraphModule) -> fx.GraphModule:
    """``program`` with modules in place of the calls whose weights are parameters; it is changed itself."""
    graph = program.graph
    for node in list(graph.nodes):
        node.meta = {}  # shapes and stack traces of the export, which a copy could not take along
        if node.target is _ATEN._assert_tensor_metadata.default:  # noqa: SLF001  # so named; of the export's device
            graph.erase_node(node)
            continue
        maker = _MAKERS.get(node.target) if node.op == "call_function" else None
        if maker is not None:
            _replace(program, node, maker)
    graph.eliminate_dead_code()
    _restore_signature(program)
    # a new GraphModule has no hooks that check what the program was called with, and only what its graph reads
    return fx.GraphModule(program, graph).eval()


def _restore_signature(program: fx.GraphModule) -> None:
    """Let the graph itself return what the model did, in place of a flat list and code that puts it in order."""
    graph = program.graph
    output = graph.output_node()
    flat = cast("Sequence[fx.Node]", output.args[0])
    order = cast("TreeSpec", program._out_spec)  # noqa: SLF001  # torch has no public name for it
    output.args = (order.unflatten(flat),)
    graph.set_codegen(fx.graph.CodeGen())


def check_input(given: tuple[int, ...], expected: tuple[Dim, ...], place: str) -> None:
    """Raises UserInputError where the program was not exported for an input of the shape ``given``."""
    fits = len(given) == len(expected) and all(want in (None, got) for got, want in zip(given, expected, strict=True))
    if not fits:
        raise UserInputError(
            f"{place}: got {_text(given)}, but the program was exported for {_text(expected)}; "
            f"leave --input out, or export the model for {_text(given)}"
        )


def _text(shape: tuple[Dim, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)


# --- the file ------------------------------------------------------------------------------------------------------


def _read(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise UserInputError(f"MODEL {path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserInputError(_unreadable(path, f"it is cut off or no archive: {error}")) from error
    if damaged is not None:
        raise UserInputError(_unreadable(path, f"{damaged} is damaged"))
    if not any(name.endswith("/archive_format") for name in names):
        raise UserInputError(_unreadable(path, "it is no archive of torch.export, or one of torch < 2.8"))
    if objects := [name for name in names if name.rpartition("/")[2].startswith(_PICKLED)]:
        raise UserInputError(
            f"MODEL {path}: is refused: it holds Python objects besides tensors ({objects[0]}), and reading those runs "
            f"code; give the model's own code, path/file.py:factory"
        )
    try:
        with _quiet(), _tensors_alone():
            return torch.export.load(path)
    except Exception as error:  # torch raises whatever its parser stumbles over
        raise UserInputError(_unreadable(path, describe(error))) from error


def _unreadable(path: Path, cause: str) -> str:
    return f"MODEL {path}: cannot be read as an exported program ({cause}); write it again with torch.export.save"


@contextlib.contextmanager
def _tensors_alone() -> Iterator[None]:
    """Whatever torch.load is asked for meanwhile, it reads nothing but tensors."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's account of a failure and its warnings of itself off the terminal: the error says what counts."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# --- what the program is -------------------------------------------------------------------------------------------


def _input_shape(program: ExportedProgram, path: Path) -> tuple[Dim, ...]:
    """The sizes of the one input; None for those that the program leaves open."""
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [values.get(name) for name in names]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
        raise UserInputError(
            f"MODEL {path}: takes {len(inputs)} inputs ({', '.join(names)}); expected one float tensor; "
            f"export a wrapper that takes the images alone"
        )
    if inputs[0].dtype != torch.float32:
        raise UserInputError(
            f"MODEL {path}: takes {names[0]} of {inputs[0].dtype}; expected torch.float32; export model.float(), and "
            f"choose the precision of what ships by --precision"
        )
    return tuple(size if isinstance(size, int) else None for size in inputs[0].shape)


def _check_inference(program: ExportedProgram, path: Path) -> None:
    """Refuse a program whose Dropout and BatchNorm do what they do in training: it cannot be put into eval mode."""
    for node in program.graph.nodes:
        arguments = _arguments(node)
        if arguments.get("training") is True or arguments.get("train") is True:
            raise UserInputError(
                f"MODEL {path}: was exported in training mode ({node.target} of {node.name}); "
                f"export it again after model.eval()"
            )


def _arguments(node: fx.Node) -> Mapping[str, Any]:
    """All arguments of an operator's call by name, with their defaults."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001  # so named
        return {}
    found = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True)
    given = {} if found is None else found.kwargs
    schema = node.target._schema.arguments  # noqa: SLF001  # torch has no public name for it
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


# --- from calls to modules -----------------------------------------------------------------------------------------


def _replace(program: fx.GraphModule, node: fx.Node, maker: Any) -> None:
    """Make ``node`` the call of a module at the place of its weight, if all that it reads stands there."""
    arguments = _arguments(node)
    source = arguments.get("input")
    place = _place(program, arguments)
    if place is None or not isinstance(source, fx.Node):
        return
    held = program.get_submodule(place)
    layer = maker(held, arguments)
    if layer is None or not (type(held) is nn.Module or _is_alike(held, layer)):
        return
    if type(held) is nn.Module:
        program.set_submodule(place, layer, strict=True)
    with program.graph.inserting_before(node):
        call = program.graph.call_module(place, (source,))
    node.replace_all_uses_with(call)
    program.graph.erase_node(node)


def _place(program: fx.GraphModule, arguments: Mapping[str, Any]) -> str | None:
    """The dotted path of the module that holds the tensors of a call, each under its usual name; None if none does."""
    reads = {name: arguments[name] for name in _HELD if isinstance(arguments.get(name), fx.Node)}
    if any(node.op != "get_attr" for node in reads.values()) or "weight" not in reads:
        return None
    paths = {name: str(node.target).rpartition(".") for name, node in reads.items()}
    places = {path for path, _, _ in paths.values()}
    if len(places) > 1 or "" in places or any(leaf != name for name, (_, _, leaf) in paths.items()):
        return None
    (place,) = places
    held = program.get_submodule(place)
    own = {name for name, _ in (*held.named_parameters(), *held.named_buffers())}
    is_parameter = isinstance(held._parameters.get("weight"), nn.Parameter)  # noqa: SLF001  # it may be a buffer
    return place if is_parameter and own <= set(reads) else None


_HELD = ("weight", "bias")


def _is_alike(held: nn.Module, layer: nn.Module) -> bool:
    """Whether a module that stands there already, of an earlier call, computes what this call does."""
    return type(held) is type(layer) and held.extra_repr() == layer.extra_repr()


def _conv(held: nn.Module, arguments: Mapping[str, Any]) -> nn.Module | None:
    weight = held.get_parameter("weight")
    if weight.ndim != 4 or arguments.get("transposed"):  # noqa: PLR2004  # [F, C / groups, kh, kw]
        return None
    padding = arguments["padding"]
    groups = arguments["groups"]
    conv = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        _pair(weight.shape[2:]),
        stride=_pair(arguments["stride"]),
        padding=padding if isinstance(padding, str) else _pair(padding),
        dilation=_pair(arguments["dilation"]),
        groups=groups,
        bias=arguments.get("bias") is not None,
        device="meta",
    )
    return _holding(conv, held)


def _linear(held: nn.Module, arguments: Mapping[str, Any]) -> nn.Module | None:
    outputs, inputs = held.get_parameter("weight").shape
    return _holding(nn.Linear(inputs, outputs, bias=arguments.get("bias") is not None, device="meta"), held)


def _holding(layer: nn.Module, held: nn.Module) -> nn.Module:
    """``layer`` with the tensors of ``held`` themselves: what shares one goes on to."""
    for name in layer._parameters:  # noqa: SLF001  # None is one of them where there is no bias
        if name in held._parameters:  # noqa: SLF001
            layer._parameters[name] = held._parameters[name]  # noqa: SLF001
    return layer


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    """(height, width) of one or two numbers."""
    return sizes[0], sizes[-1]


_ATEN = torch.ops.aten
_MAKERS = {
    _ATEN.conv2d.default: _conv,
    _ATEN.conv2d.padding: _conv,
    _ATEN.convolution.default: _conv,
    _ATEN.linear.default: _linear,
}
"""By the operator, what makes the module that computes it."""

"""From an nn.Module to ONNX IR: standard operators, and one KroneckerConv node for each KroneckerConv2d."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from torch import nn

from kronexport.errors import UserInputError
from kronexport.files import atomic_write
from kronexport.records import InputSpec

EXPORTER_OPSET = 18
"""The lowest that torch's exporter writes; lower targets are reached by lower/opset.py."""


def export_onnx(model: nn.Module, spec: InputSpec, outputs: Sequence[str] | None = None) -> ir.Model:
    """Export in eval mode at the static shape of ``spec``; constants become initializers.

    Args:
        model: the network; KroneckerConv2d modules become KroneckerConv nodes.
        spec: name and shape of its input.
        outputs: names of its outputs; None: as torch names them, which differs with the last layer.

    Raises:
        UserInputError: torch's exporter cannot trace the model.
    """
    example = torch.zeros(spec.shape)
    try:
        with _quiet():
            program = torch.onnx.export(
                model.eval(),
                (example,),
                dynamo=True,
                opset_version=EXPORTER_OPSET,
                input_names=[spec.name],
                verbose=False,
            )
    except Exception as error:  # the exporter raises what the model's own code raises
        cause = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserInputError(
            f"export: torch.onnx.export cannot trace {type(model).__name__} at {spec.name}={spec.shape}: {cause[0]}\n"
            "Make the model traceable by torch.export (no data-dependent Python control flow), then run again"
        ) from error
    if program is None:
        raise UserInputError("export: torch.onnx.export returned no program")
    exported = program.model
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(exported)
    exported.producer_name, exported.producer_version = "kronexport", None
    _drop_foreign_metadata(exported)
    _name_values(exported.graph, outputs)
    return exported


def _name_values(graph: ir.Graph, names: Sequence[str] | None) -> None:
    """Give the outputs these names, or their own, and let no other value bear one, or that of an input.

    Torch names inputs and outputs without a look at what else is called so.
    """
    outputs, inputs = list(graph.outputs), [str(value.name) for value in graph.inputs]
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    taken = {str(value.name) for value in values}.union(inputs, names or ())

    def free(name: str) -> str:
        found = next(other for index in count() if (other := f"{name}.{index}") not in taken)
        taken.add(found)
        return found

    if names is None:
        names = [free(name) if (name := str(value.name)) in inputs else name for value in outputs]
    for value in values:
        if value in outputs or value.name in names or value.name in inputs:
            value.name = free(str(value.name))
    for value, name in zip(outputs, names, strict=True):
        value.name = name


def save_model(model: ir.Model, path: Path) -> None:
    """Write ``model`` to ``path``, all or nothing; KronexportError if the disk is full."""
    with atomic_write(path) as aside:
        ir.save(model, aside)


def _drop_foreign_metadata(model: ir.Model) -> None:
    """Forget torch's stack traces: they hold paths of the machine that exported, and no runtime reads them."""
    values = (value for node in model.graph for value in node.outputs)
    for owner in (model, model.graph, *model.graph, *model.graph.inputs, *model.graph.initializers.values(), *values):
        for key in [key for key in owner.metadata_props if not key.startswith("kronexport.")]:
            del owner.metadata_props[key]
        owner.doc_string = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself (and about torchvision, which is not needed) off the terminal."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the error that is raised says what the log would
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

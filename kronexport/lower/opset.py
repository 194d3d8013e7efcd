"""Steps a model of standard ONNX operators down to the opset and IR version of its target.

torch's exporter writes opset 18 and nothing below; boards such as the Jetsons read at most 17 or 13. The opset is left
one version at a time: at version v, every operator whose definition changed in v is rewritten to what it was in v - 1.
Either the change is known to leave its behaviour alone, or a rule of ``opset_steps`` expresses it in the older
operators, or the model is refused by name: an unknown change is never passed over.
"""

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from kronexport.errors import UserInputError
from kronexport.lower.opset_edit import CannotStepDownError
from kronexport.lower.opset_steps import STEPS

IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
"""The IR version that a file of each opset is written with: the one of the ONNX release that brought the opset."""

LOWEST, HIGHEST = min(IR_VERSIONS), max(IR_VERSIONS)


class OpsetError(UserInputError, ir.passes.PreconditionError):
    """The model cannot be written at the wanted opset. Found on a copy: the model itself is as it was."""


class StepDownOpset(ir.passes.InPlacePass):
    """Lowers the opset of ``model`` to ``opset``, with equal outputs, and sets the IR version that goes with it.

    The opset is never raised: a model that is at ``opset`` or below keeps its own, and gets the IR version of that one.
    At the end each node is checked against the definition that ``onnx.defs`` has of it at ``opset``: attributes,
    inputs, outputs and element types. Metadata stays. Shape inference fills in types and shapes.

    Args:
        opset: the highest opset that the target reads, 13 to 21.

    Raises:
        UserInputError: ``opset`` is outside 13..21; or, when called (as OpsetError), the model is below opset 13, holds
            functions, subgraphs or operators of other domains, or a node has no equal at ``opset``.
    """

    def __init__(self, opset: int) -> None:
        super().__init__()
        if opset not in IR_VERSIONS:
            raise UserInputError(f"opset {opset} cannot be written; give one from {LOWEST} to {HIGHEST}")
        self.opset = opset

    def requires(self, model: ir.Model) -> None:
        opset = _model_opset(model)
        if opset < LOWEST:
            raise OpsetError(
                f"model: opset {opset}, expected {LOWEST} or higher (an opset is never raised here); "
                f"export it again with opset {LOWEST} or higher"
            )
        _refuse_foreign(model)
        if opset > self.opset:
            _refuse_subgraphs(model, self.opset)
            _step_down(model.clone(), opset, self.opset)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = _model_opset(model)
        if opset > self.opset:
            _step_down(model, opset, self.opset)
        ir_version = IR_VERSIONS[min(opset, self.opset)]
        modified = opset > self.opset or model.ir_version != ir_version
        model.ir_version = ir_version
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        opset = _model_opset(model)
        if opset > self.opset or model.ir_version != IR_VERSIONS[opset]:
            raise ir.passes.PostconditionError(
                f"model: opset {opset} and IR version {model.ir_version} after stepping down to opset {self.opset}"
            )


def _model_opset(model: ir.Model) -> int:
    """Opset of the standard domain, or 0 if the model imports none; ``ai.onnx`` is its other name."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def _set_opset(model: ir.Model, opset: int) -> None:
    model.opset_imports.pop("ai.onnx", None)
    model.opset_imports[""] = opset


def _place(node: ir.Node) -> str:
    return f"{node.op_type} node '{node.name or node.outputs[0].name}'"


def _refuse_foreign(model: ir.Model) -> None:
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in model.graph if node.domain})
    foreign += sorted(f"function {domain}::{name}" for domain, name, _ in model.functions)
    if foreign:
        raise OpsetError(
            f"model: holds {', '.join(foreign)}; expected operators of the standard ONNX domain only; "
            "lower or inline these first"
        )


def _refuse_subgraphs(model: ir.Model, target: int) -> None:
    for node in model.graph:
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            raise OpsetError(
                f"{_place(node)}: holds a subgraph, which cannot be stepped down from opset {_model_opset(model)} to "
                f"{target}; export the model without control flow, or choose a target with a higher opset"
            )


def _step_down(model: ir.Model, opset: int, target: int) -> None:
    """Leave the opset version by version; raises OpsetError on what cannot follow."""
    infer = ShapeInferencePass(check_type=False, strict_mode=False)  # types are checked below, with the node's name
    infer(model)
    for version in range(opset, target, -1):
        for node in tuple(model.graph):
            _leave_version(node, version, f"cannot be stepped down from opset {opset} to {target}")
        _set_opset(model, version - 1)
    infer(model)
    for node in model.graph:
        _refuse_unknown_to(target, node)


def _leave_version(node: ir.Node, version: int, refusal: str) -> None:
    """Make ``node``, valid at ``version``, valid at ``version`` - 1, if its operator changed between the two."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError as error:
        raise OpsetError(f"{_place(node)}: {refusal}: opset {version} has no such operator") from error
    if schema.since_version != version:
        return
    step = STEPS.get((node.op_type, version))
    if step is None:
        raise OpsetError(
            f"{_place(node)}: {refusal}: opset {version} changed {node.op_type}, and no rule expresses it in opset "
            f"{version - 1}; replace this layer in the model, or choose a target with opset {version} or higher"
        )
    try:
        step(node, version)
    except CannotStepDownError as error:
        raise OpsetError(
            f"{_place(node)}: {refusal}: at opset {version - 1}, {error}, "
            f"or choose a target with opset {version} or higher"
        ) from error


def _refuse_unknown_to(opset: int, node: ir.Node) -> None:
    """Raise unless the operator has the node's attributes, inputs, outputs and element types at ``opset``."""
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if unknown:
        raise OpsetError(f"{_place(node)}: opset {opset} does not know its attribute {', '.join(unknown)}; remove it")
    for kind, values, formals in (("input", node.inputs, schema.inputs), ("output", node.outputs, schema.outputs)):
        for value, formal in _paired(values, formals):
            if formal is None:
                raise OpsetError(
                    f"{_place(node)}: opset {opset} takes {len(formals)} {kind}s, got {len(values)}; remove the rest"
                )
            if _type_name(value) not in formal.types:
                raise OpsetError(
                    f"{_place(node)}: {kind} '{value.name}' is {_type_name(value)}; at opset {opset} it may be "
                    f"{', '.join(sorted(formal.types))}; cast it, or choose a target with a higher opset"
                )


def _paired(
    values: Sequence[ir.Value | None], formals: Sequence[onnx.defs.OpSchema.FormalParameter]
) -> Iterator[tuple[ir.Value, onnx.defs.OpSchema.FormalParameter | None]]:
    """Each value that is there with its formal parameter: the last one repeats if variadic, None if there is none."""
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    for index, value in enumerate(values):
        if value is None:
            continue
        if index < len(formals):
            yield value, formals[index]
        else:
            yield value, formals[-1] if formals and formals[-1].option == variadic else None


def _type_name(value: ir.Value) -> str:
    """The value's type as ``onnx.defs`` writes it, such as ``tensor(float)``."""
    if isinstance(value.type, ir.TensorType):
        return f"tensor({value.type.dtype.name.lower()})"
    return str(value.type) if value.type is not None else "of unknown type"

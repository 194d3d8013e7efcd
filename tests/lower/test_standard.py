"""What may ship holds standard operators only and passes onnx.checker."""

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from kronexport.errors import VerificationError
from kronexport.lower.standard import check_standard


def model(*nodes: tuple[str, str]) -> ir.Model:
    """A chain of nodes, each (domain, operator)."""
    names = [f"x{i}" for i in range(len(nodes) + 1)]
    graph = helper.make_graph(
        [helper.make_node(op, [names[i]], [names[i + 1]], domain=domain) for i, (domain, op) in enumerate(nodes)],
        "chain",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid(domain, 18 if not domain else 1) for domain in {"", *(node[0] for node in nodes)}]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def test_standard_operators_pass() -> None:
    check_standard(model(("", "Relu"), ("", "Abs")))


def test_an_operator_of_another_domain_is_named() -> None:
    with pytest.raises(VerificationError, match=r"found com\.kronexport::KroneckerConv"):
        check_standard(model(("", "Relu"), ("com.kronexport", "KroneckerConv")))


def test_a_local_function_is_refused() -> None:
    """A runtime such as OpenVINO reads none, whatever its body holds."""
    functions = model(("", "Relu"))
    body = ir.Graph([ir.Value(name="x")], [], nodes=[], opset_imports={"": 18})
    function = ir.Function("local", "Block", "", graph=body, attributes=[])
    functions.functions[function.identifier()] = function
    with pytest.raises(VerificationError, match=r"standard operators only, found .*Block"):
        check_standard(functions)


def test_a_model_that_the_checker_refuses_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"onnx\.checker refuses it: .*NoSuchOperator"):
        check_standard(model(("", "NoSuchOperator")))

"""One forward pass, watched: which module runs when, on what sizes, and every convolution that the network computes."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from kronexport.errors import UserInputError
from kronexport.records import InputSpec
from kronexport.survey.imports import call_user

_SEED = 0
_SAME = 1e-3
"""Part of an output's largest value by which two runs of a model may differ."""
_FLOPS_PER_MAC = 2
_NORMS = {torch.ops.aten.native_batch_norm, torch.ops.aten._native_batch_norm_legit_no_training}  # noqa: SLF001  # so named
_RELUS = {torch.ops.aten.relu, torch.ops.aten.relu_}


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a conv or linear module: full shapes of its input and output."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


@dataclass(slots=True)
class Trace:
    """What one forward pass showed.

    ``calls`` holds the calls of each conv and linear module by its name, in order of their first execution. ``loose``
    counts the convolutions by the name of the innermost module (``""`` is the model) when they belong to no conv
    module's own call; ``read_outside`` names the conv and linear modules whose weight something else than their own
    call used. ``normed`` and ``activated`` name the layers whose output goes through a BatchNorm, and behind that, if
    there is one, through a ReLU, and nowhere else. ``macs`` are those of all convolutions and matrix products, for the
    whole batch.
    """

    calls: dict[str, list[LayerCall]] = field(default_factory=lambda: defaultdict(list))
    loose: Counter[str] = field(default_factory=Counter)
    read_outside: set[str] = field(default_factory=set)
    normed: set[str] = field(default_factory=set)
    activated: set[str] = field(default_factory=set)
    macs: int = 0


def trace(module: nn.Module, input_spec: InputSpec) -> Trace:
    """Runs ``module`` without gradients on seeded normal noise of the input's shape, and again to see the same come.

    Raises:
        UserInputError: the model raises on that shape, returns something else than tensors, or other values each time.
    """
    shape = "x".join(map(str, input_spec.shape))
    found = Trace()
    images = torch.randn(input_spec.shape, generator=torch.Generator().manual_seed(_SEED))
    watch = _LayerWatch(module, found)
    counter = _mac_counter()
    with ExitStack() as stack:
        for context in (torch.no_grad(), _decomposed_attention(), watch.hooked(), watch, counter):
            stack.enter_context(context)
        doing = f"--input {shape}: the model refuses it; its forward"
        output = call_user(module, images.clone(), doing=doing)
    _check_output(output, shape)
    with torch.no_grad(), _decomposed_attention():
        _check_repeats(output, call_user(module, images, doing=doing), shape)
    found.macs = counter.get_total_flops() // _FLOPS_PER_MAC
    found.normed, found.activated = watch.followers.found()
    return found


class _Followers:
    """Which operators read what a layer gave, and what a BatchNorm made of that."""

    def __init__(self) -> None:
        # the tensors are kept, so that no id is given twice
        self._outputs: dict[int, tuple[str, Tensor]] = {}
        self._normed: dict[int, tuple[str, Tensor]] = {}
        self._reads: dict[int, list[Any]] = defaultdict(list)

    def made(self, name: str, output: Any) -> None:
        """The layer ``name`` gave ``output``."""
        if isinstance(output, Tensor):
            self._outputs[id(output)] = name, output

    def ran(self, packet: Any, arguments: Sequence[Any], result: Any) -> None:
        """An operator made ``result`` of ``arguments``."""
        for leaf in arguments:
            if id(leaf) in self._outputs or id(leaf) in self._normed:
                self._reads[id(leaf)].append(packet)
        if packet in _NORMS and id(arguments[0]) in self._outputs:
            self._normed[id(result[0])] = self._outputs[id(arguments[0])][0], result[0]

    def found(self) -> tuple[set[str], set[str]]:
        """``Trace.normed`` and ``Trace.activated``."""
        normed = {name for key, (name, _) in self._outputs.items() if self._alone(key) in _NORMS}
        plain = [(key, name) for key, (name, _) in self._outputs.items() if name not in normed]
        behind = [(key, name) for key, (name, _) in self._normed.items() if name in normed]
        return normed, {name for key, name in (*plain, *behind) if self._alone(key) in _RELUS}

    def _alone(self, key: int) -> Any:
        """The only operator that reads the tensor, if it is one; after a ReLU in place it is another tensor."""
        reads = self._reads[key]
        return reads[0] if len(reads) == 1 or reads[:1] == [torch.ops.aten.relu_] else None


class _LayerWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
    """Follows the modules by hooks and the operators by dispatch, and notes every convolution in a Trace."""

    def __init__(self, module: nn.Module, found: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._module = module
        self._found = found
        self.followers = _Followers()
        self._running = [""]
        self._layers = {name: part for name, part in module.named_modules() if isinstance(part, _ConvNd | nn.Linear)}
        self._owners = {
            weight.data_ptr(): name
            for name, layer in self._layers.items()
            # One that is computed at each call, as by weight_norm, is no parameter and has no fixed place.
            if (weight := layer._parameters.get("weight")) is not None  # noqa: SLF001  # getattr would compute it
        }

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on all modules, gone afterwards."""
        with ExitStack() as stack:
            for name, part in self._module.named_modules():
                before = part.register_forward_pre_hook(self._enter(name), prepend=True)
                after = part.register_forward_hook(self._leave(name), with_kwargs=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield

    def _enter(self, name: str) -> Any:
        def enter(_module: nn.Module, _args: tuple[Any, ...]) -> None:
            self._running.append(name)

        return enter

    def _leave(self, name: str) -> Any:
        def leave(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._running.pop()
            if name in self._layers:
                images = args[0] if args else kwargs["input"]
                self._found.calls[name].append(LayerCall(tuple(images.shape), tuple(output.shape)))
                self.followers.made(name, output)

        return leave

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        running = self._running[-1]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        owners = {self._owners.get(leaf.data_ptr()) for leaf in tensors}
        outside = {owner for owner in owners if owner is not None and owner != running}
        self._found.read_outside |= outside
        is_convolution = func.overloadpacket is torch.ops.aten.convolution
        # A conv whose own weight is used elsewhere is named for that; it is not an unknown one besides.
        if is_convolution and not isinstance(self._layers.get(running), _ConvNd) and not outside:
            self._found.loose[running] += 1
        result = func(*args, **(kwargs or {}))
        self.followers.ran(func.overloadpacket, tensors, result)
        return result


def _mac_counter() -> FlopCounterMode:
    """The library's counter, and what it lacks: matrix times vector, attention and LSTMs as the CPU computes them."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten.mv: _mv_flops,
            aten.addmv: lambda _bias, matrix, *_, **__: _mv_flops(matrix),
            aten.dot: _mv_flops,
            aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,  # noqa: SLF001  # torch's own name
            aten.mkldnn_rnn_layer: _lstm_flops,
        },
    )


def _mv_flops(matrix_shape: Sequence[int], *_: Any, **__: Any) -> int:
    return _FLOPS_PER_MAC * int(torch.Size(matrix_shape).numel())


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _lstm_flops(steps: Sequence[int], *weights: Any, **__: Any) -> int:
    """Of one layer in one direction: ``steps`` [T, N, C], weights of the input [4 H, C] and of the state [4 H, H]."""
    return sum(steps[0] * steps[1] * _mv_flops(weight) for weight in weights[:2])


@contextmanager
def _decomposed_attention() -> Iterator[None]:
    """Keeps nn.MultiheadAttention from its fused inference path, whose matrix products nobody could count."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _check_repeats(output: object, again: object, shape: str) -> None:
    """By the outputs that are floats; another order of additions may change their last bits."""
    for one, other in zip(tree_leaves(output), tree_leaves(again), strict=False):
        if not one.is_floating_point():
            continue
        largest = float(one.abs().nan_to_num().max()) if one.numel() else 0.0
        if one.shape != other.shape or not torch.allclose(one, other, _SAME, _SAME * largest, equal_nan=True):
            raise UserInputError(
                f"--input {shape}: the model gives other outputs for the same input each time; expected the same, as "
                "nothing can be verified against it; look for a dropout or noise that does not heed model.eval(), such "
                "as F.dropout without training=self.training"
            )


def _check_output(output: object, shape: str) -> None:
    leaves = tree_leaves(output)
    strange = [f" holding a {type(leaf).__name__}" for leaf in leaves if not isinstance(leaf, Tensor)]
    if strange or not leaves:
        holding = strange[0] if leaves and leaves[0] is not output else ""
        raise UserInputError(
            f"--input {shape}: the model returned a {type(output).__name__}{holding}; expected a tensor, or a tuple, "
            f"list or dict of tensors; wrap the model in one that returns only these"
        )
    if any(leaf.ndim == 0 for leaf in leaves):
        raise UserInputError(
            f"--input {shape}: the model returned a scalar; expected outputs whose first axis is the batch; "
            f"wrap the model in one that returns those"
        )

"""Which convolutions and linear layers of a network can be factorized, and why the others cannot.

A linear layer is a 1x1 convolution in disguise: of an image of one pixel, or of as many as its input has positions.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from kronexport.errors import UserInputError
from kronexport.records import ConvGeometry, InputSpec, Pads, Pair, Site, Skipped, Survey
from kronexport.survey.imports import suggestion
from kronexport.survey.trace import Trace, trace

_IMAGE_RANK = 4
_ROWS_RANK = 2
"""Least axes of a linear layer's input: the batch and the channels."""
_WHOLE_MODEL = "(model)"
"""What stands for the model itself where a name is asked for."""

SiteLayer = nn.Conv2d | nn.Linear
"""What a site's module is."""
_Layer = _ConvNd | nn.Linear


def survey(
    module: nn.Module,
    input_spec: InputSpec,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fixed: Collection[str] = (),
) -> Survey:
    """Every convolution of ``module``: the sites in order of execution, and the others with the reason.

    Linear layers are looked at only where ``include`` names them (docs/decisions/0007).

    Args:
        module: The network in eval mode, on the CPU, float32.
        input_spec: Its input; sizes and MACs are those of this batch.
        include: ``fnmatch`` patterns on dotted names; a conv that none of them matches is skipped. Empty: all convs.
        exclude: Patterns of layers to skip; they win over ``include``.
        fixed: Names of layers that hold factors already; they are sites whatever the patterns say.

    Returns:
        ``macs`` counts all convolutions (transposed ones too) and matrix products; ``params`` each parameter once.

    Raises:
        UserInputError: the model refuses the input, a pattern matches no layer, none is left to factorize, or a fixed
            one cannot be a site.
    """
    found = trace(module, input_spec)
    layers = _layers_in_order(module, found)
    wanted = {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, _ConvNd) or name in fixed or _matches(name, include)
    }
    _check_fixed({name: layers[name] for name in fixed}, found, module)
    reasons = {
        name: None if name in fixed else _obstacle(name, layer, found, module) or _not_selected(name, include, exclude)
        for name, layer in wanted.items()
    }
    reasons |= {name or _WHOLE_MODEL: _loose_reason(count) for name, count in found.loose.items()}
    reasons |= dict.fromkeys(_quantized(module), "is quantized; give the model as it was before")
    _check_patterns((*include, *exclude), list(reasons | layers))
    sites = tuple(_site(name, layers[name], found) for name, reason in reasons.items() if reason is None)
    skipped = tuple(Skipped(name, reason) for name, reason in reasons.items() if reason is not None)
    if not sites:
        raise UserInputError(_nothing_left(skipped))
    return Survey(sites, skipped, sum(parameter.numel() for parameter in module.parameters()), found.macs)


def layer_at(module: nn.Module, site: str) -> SiteLayer:
    """The conv or linear layer of that name.

    Raises:
        TypeError: what has that name is neither.
    """
    layer = module.get_submodule(site)
    if not isinstance(layer, SiteLayer):
        raise TypeError(f"{site}: a {type(layer).__name__}, expected nn.Conv2d or nn.Linear")
    return layer


def layer_weight(layer: SiteLayer) -> Tensor:
    """[F, C / groups, kh, kw], without gradient; a linear layer's is [F, C, 1, 1]."""
    weight = layer.weight.detach()
    return weight[:, :, None, None] if isinstance(layer, nn.Linear) else weight


def layer_geometry(layer: SiteLayer) -> ConvGeometry:
    """That of the conv, or of the 1x1 conv that the linear layer is."""
    return ConvGeometry((1, 1)) if isinstance(layer, nn.Linear) else conv_geometry(layer)


def columns(x: Tensor) -> Tensor:
    """[N, ..., C] -> [N, C, L, 1]: a linear layer's input or output as the images of the 1x1 conv that it is."""
    return x.movedim(-1, 1).reshape(x.shape[0], x.shape[-1], -1, 1)


def conv_geometry(conv: nn.Conv2d) -> ConvGeometry:
    """Kernel, stride, padding, dilation and group of ``conv`` in ONNX Conv's terms."""
    return ConvGeometry(_pair(conv.kernel_size), _pair(conv.stride), onnx_pads(conv), _pair(conv.dilation), conv.groups)


def onnx_pads(conv: nn.Conv2d) -> Pads:
    """Zero padding as (top, left, bottom, right)."""
    if conv.padding == "valid":
        return 0, 0, 0, 0
    if conv.padding == "same":
        return same_pads(_pair(conv.kernel_size), _pair(conv.dilation))
    height, width = (int(size) for size in conv.padding)
    return height, width, height, width


def same_pads(kernel: Pair, dilation: Pair) -> Pads:
    """Those of ``padding="same"``; an odd total has the larger half at the end."""
    total_h, total_w = (dilation[axis] * (kernel[axis] - 1) for axis in (0, 1))
    return total_h // 2, total_w // 2, total_h - total_h // 2, total_w - total_w // 2


def _layers_in_order(module: nn.Module, found: Trace) -> dict[str, _Layer]:
    """All conv modules of any kind and all linear ones: those that ran in order of execution, then the rest."""
    layers = {name: part for name, part in module.named_modules() if isinstance(part, _ConvNd | nn.Linear)}
    return {name: layers[name] for name in (*found.calls, *layers)}


def _site(name: str, layer: _Layer, found: Trace) -> Site:
    assert isinstance(layer, SiteLayer)  # noqa: S101  # _obstacle lets nothing else pass
    (call,) = found.calls[name]
    geometry = layer_geometry(layer)
    filters, channels, *_ = layer.weight.shape
    macs = math.prod(call.output_shape) * math.prod(layer.weight.shape[1:])
    return Site(
        name=name,
        batch=call.input_shape[0],
        in_channels=channels * geometry.group,
        out_channels=filters,
        geometry=geometry,
        input_size=_image_size(layer, call.input_shape),
        output_size=_image_size(layer, call.output_shape),
        has_bias=layer.bias is not None,
        params=sum(parameter.numel() for parameter in layer.parameters()),
        macs=macs,
        share=macs / found.macs,
        has_norm=name in found.normed,
        activation="Relu" if name in found.activated else None,
    )


def _image_size(layer: nn.Conv2d | nn.Linear, shape: tuple[int, ...]) -> Pair:
    """(height, width) of a conv's image; a linear layer's positions are one column of pixels."""
    return (math.prod(shape[1:-1]), 1) if isinstance(layer, nn.Linear) else _pair(shape[2:])


def _pair(sizes: Sequence[int]) -> Pair:
    height, width = sizes
    return height, width


# --- why a convolution stays as it is ---------------------------------------------------------------------------


def _obstacle(name: str, layer: _Layer, found: Trace, module: nn.Module) -> str | None:
    """The first reason why ``layer`` cannot be replaced by a factorized one; None if there is none."""
    return (
        _kind_obstacle(layer)
        or _weight_obstacle(name, layer, module)
        or _use_obstacle(name, layer, found)
        or _place_obstacle(name, layer, module)
    )


def _check_fixed(layers: Mapping[str, _Layer], found: Trace, module: nn.Module) -> None:
    """Refuse a layer with factors in a place where they cannot stay."""
    for name, layer in layers.items():
        reason = _use_obstacle(name, layer, found) or _place_obstacle(name, layer, module)
        if reason is not None:
            raise UserInputError(
                f"MODEL: {name}: holds factors, and {reason}; expected one call in a forward, by one module, on a batch"
            )


def _kind_obstacle(layer: _Layer) -> str | None:
    kind = f"is a {type(layer).__name__}, which has a forward of its own"
    obstacles = {
        "is a transposed convolution": isinstance(layer, _ConvTransposeNd),
        "its weight is computed by a parametrization; remove_parametrizations makes it plain": is_parametrized(layer),
        "is a 1-D convolution": isinstance(layer, nn.Conv1d),
        "is a 3-D convolution": isinstance(layer, nn.Conv3d),
    }
    if isinstance(layer, nn.Linear):
        obstacles[kind] = _differs(type(layer), nn.Linear, ("__call__", "forward"))
    else:
        obstacles[kind] = _differs(type(layer), nn.Conv2d, ("__call__", "forward", "_conv_forward"))
        obstacles["is depthwise"] = layer.groups == layer.in_channels > 1
        obstacles[f"pads with {layer.padding_mode!r}, not with zeros"] = layer.padding_mode != "zeros"
    return next((reason for reason, applies in obstacles.items() if applies), None)


def _weight_obstacle(name: str, layer: _Layer, module: nn.Module) -> str | None:
    if "weight" not in dict(layer.named_parameters()):
        return "its weight is computed by a hook at each call, as by weight_norm or pruning; make it permanent first"
    if layer.weight.is_complex():
        return "its weight is complex"
    if _has_hooks(layer) or "forward" in vars(layer):
        return "has hooks or a forward of its own, which would be lost"
    sharing = _modules_with(layer.weight, module) - {name}
    return f"shares its weight with {', '.join(sorted(name or _WHOLE_MODEL for name in sharing))}" if sharing else None


def _differs(kind: type[_Layer], plain: type[_Layer], methods: Sequence[str]) -> bool:
    """Whether a subclass of ``plain`` may compute something else; one that only builds itself otherwise does not."""
    return any(getattr(kind, method) is not getattr(plain, method) for method in methods)


def _has_hooks(layer: _Layer) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)  # noqa: SLF001  # torch has no public way to ask


def _use_obstacle(name: str, layer: _Layer, found: Trace) -> str | None:
    calls = found.calls.get(name, [])
    least_rank = _ROWS_RANK if isinstance(layer, nn.Linear) else _IMAGE_RANK
    if name in found.read_outside:
        return "its weight is used outside its own call, by other code or through conv.forward(...)"
    if not calls:
        return "is never called in forward"
    if len(calls) > 1:
        return f"is called {len(calls)} times in one forward"
    if len(calls[0].input_shape) < least_rank:
        return f"is called on {len(calls[0].input_shape)}-D input, without a batch axis"
    return None


def _place_obstacle(name: str, layer: _Layer, module: nn.Module) -> str | None:
    if not name:
        return "is the whole model; put it into an nn.Sequential"
    parents = defaultdict(list)
    for path, part in module.named_modules(remove_duplicate=False):
        if part is layer:
            holder, _, name_there = path.rpartition(".")
            parents[id(module.get_submodule(holder)), name_there].append(path)
    # A module that holds the layer and is itself known by several names is replaced once, for all of them.
    places = [paths[0] for paths in parents.values()]
    return f"is held in several places: {', '.join(places)}" if len(places) > 1 else None


def _modules_with(weight: Tensor, module: nn.Module) -> set[str]:
    return {
        name
        for name, part in module.named_modules()
        if any(own.data_ptr() == weight.data_ptr() for own in part.parameters(recurse=False))
    }


def _loose_reason(count: int) -> str:
    return f"{count} convolution{'s' if count > 1 else ''} in its forward whose weight belongs to no conv module"


def _quantized(module: nn.Module) -> list[str]:
    """Names of torch's quantized convs and linear layers, which compute without aten.convolution and aten.linear."""
    return [
        name
        for name, part in module.named_modules()
        if any(kind in type(part).__name__ for kind in ("Conv", "Linear"))
        and not type(part).__name__.endswith("PackedParams")
        and type(part).__module__.startswith("torch.ao.nn")
        and not isinstance(part, _ConvNd | nn.Linear)
    ]


# --- what the user selected ---------------------------------------------------------------------------------------


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _not_selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> str | None:
    excluding = next((pattern for pattern in exclude if fnmatchcase(name, pattern)), None)
    if excluding is not None:
        return f"excluded by --exclude {excluding}"
    if include and not _matches(name, include):
        return f"not selected by --include {' '.join(include)}"
    return None


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        inside = any(name.startswith(f"{pattern}.") for name in names)
        hint = f"; did you mean '{pattern}.*'?" if inside else suggestion(pattern, names)
        raise UserInputError(f"--include/--exclude {pattern!r}: matches no convolution or linear layer{hint}")


def _nothing_left(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return "the model has no convolution to factorize; expected at least one nn.Conv2d that its forward calls"
    first = {entry.reason: entry.site for entry in reversed(skipped)}
    counts = Counter(entry.reason for entry in skipped)
    lines = [
        f"  {first[reason]}{f' and {count - 1} more' if count > 1 else ''}: {reason}"
        for reason, count in counts.most_common()
    ]
    return "\n".join(
        ["the model has no convolution left to factorize; expected at least one plain nn.Conv2d. Skipped:", *lines]
    )

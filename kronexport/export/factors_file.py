"""factors.safetensors: a factorized network, written, and put back together from the dense architecture.

Its whole state dict, factors as ``SITE.factors.K``; the structures as JSON in the metadata ``structures``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.export.replace import kronecker_modules, with_networks
from kronexport.factorize.network import KroneckerNetwork
from kronexport.files import write_bytes_aside
from kronexport.records import FactorShape, Structure
from kronexport.survey.imports import suggestion
from kronexport.survey.model import checked_module

_STRUCTURES = "structures"


class _StoredStructure(BaseModel):
    """``factors``: rank axes, f, c, h, w of each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    ranks: tuple[int, ...]
    factors: tuple[tuple[str, int, int, int, int], ...]


_JSON = TypeAdapter(dict[str, _StoredStructure])


def save_compressed(model: nn.Module, path: str | Path) -> None:
    """Write all values of ``model``, its factors among them, as safetensors; an existing file is replaced.

    Raises:
        KronexportError: the disk is full; ``path`` is as it was.
    """
    structures = {site: _stored(module.structure) for site, module in kronecker_modules(model).items()}
    # clones, since safetensors takes no two names of one tensor
    values = {name: value.contiguous().clone() for name, value in _values(model).items()}
    # not save_file, which meets a full disk with an error of its own instead of an OSError
    write_bytes_aside(Path(path), save(values, metadata={_STRUCTURES: _JSON.dump_json(structures).decode()}))


def load_compressed(model: nn.Module, path: str | Path) -> nn.Module:
    """The network of a file, in a copy of the dense ``model``: the architecture that was compressed.

    All values are the file's, biases and BatchNorms too, which training may have changed. Types, device and mode are
    the model's.

    Args:
        model: with any weights; it is not changed.
        path: what ``save_compressed`` wrote, such as OUT/intermediates/TARGET/factors.safetensors of a build.

    Raises:
        UserInputError: the file is missing, damaged, or of a dense network; a site of it is not in the model, is
            neither nn.Conv2d nor nn.Linear there, or has a weight of another shape or other groups; other values are
            missing, unknown or of another shape; the model is no nn.Module with values.
    """
    file = Path(path)
    dense = checked_module(model, "load_compressed: the model is")
    try:
        structures, values = _read(file)
        networks = {site: _network(site, structure, values) for site, structure in structures.items()}
        _check_sites(dense, networks)
        compressed = with_networks(dense, networks)
        _check_values(_values(compressed), values)
        compressed.load_state_dict(values, strict=False)  # what is no tensor is not in the file
    except UserInputError as error:
        raise UserInputError(f"{file}: {error}") from error
    return compressed


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _read(path: Path) -> tuple[dict[str, Structure], dict[str, Tensor]]:
    if not path.is_file():
        raise UserInputError("there is no such file; expected factors.safetensors of a build or of save_compressed")
    try:
        with safe_open(path, framework="pt") as stored:
            text = (stored.metadata() or {}).get(_STRUCTURES)
            if text is None:
                raise UserInputError(
                    f"has no metadata {_STRUCTURES!r}; expected a file of factors; weights of a dense model go into "
                    f"it by load_state_dict"
                )
            structures = {site: _structure(entry) for site, entry in _JSON.validate_json(text).items()}
            values = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise UserInputError(f"is damaged, or no safetensors file ({error}); write it again") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserInputError(
            f"its metadata {_STRUCTURES!r} are damaged ({where or 'JSON'}: {first['msg']}); write it again"
        ) from error
    return structures, values


def _check_values(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name in expected:
        if name not in given:
            raise UserInputError(f"has no {name}, which the model has; give the architecture that was compressed")
    for name, value in given.items():
        if name not in expected:
            raise UserInputError(
                f"{name}: the model has no such value{suggestion(name, list(expected))}; give the architecture that "
                f"was compressed"
            )
        if value.shape != expected[name].shape:
            raise UserInputError(
                f"{name}: has shape {tuple(value.shape)}, the model's is {tuple(expected[name].shape)}; give the "
                f"architecture that was compressed"
            )


def _check_sites(model: nn.Module, sites: Iterable[str]) -> None:
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)]
    for site in sites:
        if site not in modules:
            raise UserInputError(
                f"{site}: the model has no such module{suggestion(site, layers)}; give the architecture that was "
                f"compressed"
            )
        if not isinstance(modules[site], nn.Conv2d | nn.Linear):
            raise UserInputError(
                f"{site}: is a {type(modules[site]).__name__} in the model, expected nn.Conv2d or nn.Linear; give the "
                f"dense architecture that was compressed"
            )


def _network(site: str, structure: Structure, values: Mapping[str, Tensor]) -> KroneckerNetwork:
    names = [f"{site}.factors.{k}" for k in range(len(structure.factors))]
    missing = [name for name in names if name not in values]
    if missing:
        raise UserInputError(f"has no {missing[0]}; the file is damaged: write it again")
    tensors = [values[name] for name in names]
    # numpy has no bfloat16
    arrays = [(tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for tensor in tensors]
    try:
        return KroneckerNetwork(structure, tuple(arrays))
    except UserInputError as error:
        raise UserInputError(f"{site}: {error}; the file is damaged: write it again") from error


def _stored(structure: Structure) -> _StoredStructure:
    factors = tuple((factor.rank_axes, *factor.size) for factor in structure.factors)
    return _StoredStructure(method=structure.method, ranks=structure.ranks, factors=factors)


def _structure(stored: _StoredStructure) -> Structure:
    return Structure(stored.method, stored.ranks, tuple(FactorShape(*factor) for factor in stored.factors))

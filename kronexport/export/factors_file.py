"""factors.safetensors: the factors of a model, written, and put back into the dense architecture.

Tensors ``SITE.factors.K``; the structures as JSON in the metadata ``structures``. Nothing else of the model is in it.
"""

from collections.abc import Iterable
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


def save_factors(model: nn.Module, path: str | Path) -> None:
    """Write the factors of every factorized layer of ``model`` as safetensors; an existing file is replaced.

    Raises:
        KronexportError: the disk is full; ``path`` is as it was.
    """
    modules = kronecker_modules(model)
    tensors = {
        _key(site, k): factor.detach().contiguous()
        for site, module in modules.items()
        for k, factor in enumerate(module.factors)
    }
    structures = {site: _stored(module.structure) for site, module in modules.items()}
    # not save_file, which meets a full disk with an error of its own instead of an OSError
    write_bytes_aside(Path(path), save(tensors, metadata={_STRUCTURES: _JSON.dump_json(structures).decode()}))


def load_compressed(model: nn.Module, factors: str | Path) -> nn.Module:
    """A copy of the dense ``model`` with the factorized layers of a file in place of its own.

    Everything but the weights of these layers is that of ``model``, biases and BatchNorms too: load its own weights
    first. Mode and device stay; factors take the type of the weight that they replace.

    Args:
        model: the dense architecture that was compressed; it is not changed.
        factors: what ``save_factors`` wrote, such as OUT/intermediates/TARGET/factors.safetensors of a build.

    Raises:
        UserInputError: the file is missing, damaged, or no file of factors; a site of it is not in the model, is
            neither nn.Conv2d nor nn.Linear there, or has a weight of another shape or other groups; the model is no
            nn.Module with values.
    """
    path = Path(factors)
    dense = checked_module(model, "load_compressed: the model is")
    try:
        networks = _read(path)
        _check_sites(dense, networks)
        return with_networks(dense, networks)
    except UserInputError as error:
        raise UserInputError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, KroneckerNetwork]:
    if not path.is_file():
        raise UserInputError("there is no such file; expected the factors.safetensors of a build or of save_factors")
    try:
        with safe_open(path, framework="pt") as stored:
            text = (stored.metadata() or {}).get(_STRUCTURES)
            if text is None:
                raise UserInputError(
                    f"has no metadata {_STRUCTURES!r}; expected a file of factors; weights of a dense model go into "
                    f"it by load_state_dict"
                )
            structures = {site: _structure(entry) for site, entry in _JSON.validate_json(text).items()}
            tensors = {
                site: [stored.get_tensor(_key(site, k)) for k in range(len(structure.factors))]
                for site, structure in structures.items()
            }
    except (SafetensorError, OSError) as error:
        raise UserInputError(f"is damaged, or no safetensors file ({error}); write it again") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserInputError(
            f"its metadata {_STRUCTURES!r} are damaged ({where or 'JSON'}: {first['msg']}); write it again"
        ) from error
    return {site: _network(site, structure, tensors[site]) for site, structure in structures.items()}


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


def _network(site: str, structure: Structure, tensors: Iterable[Tensor]) -> KroneckerNetwork:
    # numpy has no bfloat16
    arrays = [(tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for tensor in tensors]
    try:
        return KroneckerNetwork(structure, tuple(arrays))
    except UserInputError as error:
        raise UserInputError(f"{site}: {error}; the file is damaged: write it again") from error


def _key(site: str, factor: int) -> str:
    return f"{site}.factors.{factor}"


def _stored(structure: Structure) -> _StoredStructure:
    factors = tuple((factor.rank_axes, *factor.size) for factor in structure.factors)
    return _StoredStructure(method=structure.method, ranks=structure.ranks, factors=factors)


def _structure(stored: _StoredStructure) -> Structure:
    return Structure(stored.method, stored.ranks, tuple(FactorShape(*factor) for factor in stored.factors))

"""Drop-ins whose weight is a Kronecker network: ``KroneckerConv2d`` and ``KroneckerLinear``."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from kronexport.errors import UserInputError
from kronexport.export.operator import DOMAIN, METHOD_KEY, OP_TYPE, SITE_KEY, VERSION, operator_attributes
from kronexport.factorize.gkpd import gkpd
from kronexport.factorize.network import KroneckerNetwork, check_group, einsum_equation
from kronexport.records import ConvGeometry, Pair, Structure
from kronexport.survey.sites import SiteLayer, columns, conv_geometry, layer_weight, same_pads


class KroneckerLayer(nn.Module):
    """What both layers are: factors that stand for a weight [F, C / groups, kh, kw], a bias and a place in a network.

    In an ONNX export (``torch.onnx.export(dynamo=True)``) a layer becomes one ``com.kronexport::KroneckerConv`` node.

    Args:
        network: structure and initial values of the factors, in the layer's dtype.
        geometry: kernel (equal to the structure's), stride, pads in ONNX order, dilation, group.
        bias: [F], or None for a layer without one.
        site: the module's dotted path, written to the ONNX node.

    Raises:
        UserInputError: the first factor's filters are no multiple of the groups.
    """

    bias: nn.Parameter | None
    zero_bias: Tensor

    def __init__(
        self, network: KroneckerNetwork, geometry: ConvGeometry, bias: Tensor | None = None, site: str = ""
    ) -> None:
        super().__init__()
        check_group(network.structure, geometry.group, site or "conv")
        self.structure = network.structure
        self.geometry = geometry
        self.site = site
        self.factors = nn.ParameterList(nn.Parameter(torch.from_numpy(factor.copy())) for factor in network.factors)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        zeros = self.factors[0].detach().new_zeros(self.structure.weight_shape[0])
        self.register_buffer("zero_bias", zeros, persistent=False)

    def in_place_of(self, layer: nn.Conv2d | nn.Linear) -> Self:
        """With the dtype, device, requires_grad and mode of ``layer``.

        Raises:
            UserInputError: the layer's weight has another shape.
        """
        expected, given = self.structure.weight_shape, tuple(layer_weight(layer).shape)
        if given != expected:
            raise UserInputError(
                f"{self.site or 'layer'}: the factors make a weight {expected}, the layer's is {given}; expected the "
                f"same: take the network that the factors were found for"
            )
        module = self.to(layer.weight)
        module.factors.requires_grad_(layer.weight.requires_grad)
        if module.bias is not None and layer.bias is not None:
            module.bias.requires_grad_(layer.bias.requires_grad)
        return module.train(layer.training)

    def network(self) -> KroneckerNetwork:
        """The present factors, as arrays."""
        return KroneckerNetwork(self.structure, tuple(factor.detach().cpu().numpy() for factor in self.factors))

    def to_dense(self) -> Tensor:
        """The weight [F, C / groups, kh, kw], differentiable in the factors."""
        product: Tensor = torch.einsum(einsum_equation(self.structure), *self.factors)
        return product.reshape(self.structure.weight_shape)

    def dense_layer(self) -> SiteLayer:
        """The plain layer that computes the same: weight ``to_dense()``, bias, dtype, device and mode of this one.

        Raises:
            UserInputError: no nn.Conv2d pads like this layer.
        """
        raise NotImplementedError

    def _filled(self, kind: type[SiteLayer], *sizes: Any, **options: Any) -> SiteLayer:
        """A layer of ``kind`` with this one's values."""
        weight, bias = self.network().to_dense(), self.bias
        dtype, device = self.factors[0].dtype, self.factors[0].device
        layer: SiteLayer = skip_init(kind, *sizes, bias=bias is not None, dtype=dtype, device=device, **options)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight).reshape(layer.weight.shape))
            if bias is not None and layer.bias is not None:
                layer.bias.copy_(bias)
        return layer.train(self.training)

    def operator(self, x: Tensor) -> Tensor:
        """The node of an ONNX export, from images [N, C, H, W] to [N, F, H', W']."""
        height, width = self.geometry.output_size((int(x.shape[2]), int(x.shape[3])))
        output: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OP_TYPE}",
            [x, self.zero_bias if self.bias is None else self.bias, *self.factors],
            operator_attributes(self.structure, self.geometry),
            dtype=x.dtype,
            shape=(x.shape[0], self.structure.weight_shape[0], height, width),
            version=VERSION,
            metadata_props={SITE_KEY: self.site, METHOD_KEY: self.structure.method},
        )
        return output

    def extra_repr(self) -> str:
        return f"{self.structure}, ranks={self.structure.ranks}, {self.geometry}, site={self.site!r}"


class KroneckerConv2d(KroneckerLayer):
    """[N, C, H, W] -> [N, F, H', W'], computed as a conv by ``to_dense()``; trains and exports."""

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, structure: Structure, site: str = "") -> Self:
        """Factorize a conv's weight by GKPD (truncated SVD); bias, dtype, device and requires_grad stay.

        Raises:
            UserInputError: the conv does not pad with zeros, the structure does not divide the weight's shape, its
                rank is too high, or its first factor's filters are no multiple of the conv's groups.
        """
        return cls.replacing(conv, gkpd(conv.weight.detach().cpu().numpy(), structure), site)

    @classmethod
    def replacing(cls, conv: nn.Conv2d, network: KroneckerNetwork, site: str = "") -> Self:
        """Stand in for ``conv`` with this network as its weight; bias, dtype, device, requires_grad and mode stay.

        Raises:
            UserInputError: the network's weight has another shape or does not suit the groups, or the conv does not
                pad with zeros.
        """
        if conv.padding_mode != "zeros":
            raise UserInputError(
                f"{site or 'conv'}: padding_mode={conv.padding_mode!r}; expected 'zeros': leave this layer dense"
            )
        return cls(network, conv_geometry(conv), conv.bias, site).in_place_of(conv)

    def dense_layer(self) -> SiteLayer:
        geometry = self.geometry
        options = {"stride": geometry.stride, "dilation": geometry.dilation, "groups": geometry.group}
        sizes = self.in_channels, self.out_channels, geometry.kernel
        return self._filled(nn.Conv2d, *sizes, padding=self._padding(), **options)

    def _padding(self) -> Pair | str:
        """As nn.Conv2d takes it."""
        geometry = self.geometry
        top, left, bottom, right = geometry.pads
        if (top, left) == (bottom, right):
            return top, left
        if geometry.stride == (1, 1) and geometry.pads == same_pads(geometry.kernel, geometry.dilation):
            return "same"
        raise UserInputError(
            f"{self.site or 'conv'}: pads {geometry.pads} (top, left, bottom, right), which no nn.Conv2d does; pad by "
            f"an nn.ZeroPad2d before it"
        )

    @property
    def in_channels(self) -> int:
        return self.structure.weight_shape[1] * self.geometry.group

    @property
    def out_channels(self) -> int:
        return self.structure.weight_shape[0]

    @property
    def kernel_size(self) -> Pair:
        return self.geometry.kernel

    @property
    def stride(self) -> Pair:
        return self.geometry.stride

    @property
    def dilation(self) -> Pair:
        return self.geometry.dilation

    @property
    def groups(self) -> int:
        return self.geometry.group

    @property
    def weight(self) -> Tensor:
        """``to_dense()``: what the layer would hold as an ``nn.Conv2d``."""
        return self.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self.operator(x)
        top, left, bottom, right = self.geometry.pads
        if (top, left) == (bottom, right):
            padding = (top, left)
        else:
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        geometry = self.geometry
        return F.conv2d(x, self.to_dense(), self.bias, geometry.stride, padding, geometry.dilation, geometry.group)


class KroneckerLinear(KroneckerLayer):
    """[N, ..., C] -> [N, ..., F], computed as a linear layer by ``to_dense()``; trains and exports.

    To the operator it is a 1x1 conv of images [N, C, L, 1], where L is the number of positions between N and C.
    """

    def __init__(self, network: KroneckerNetwork, bias: Tensor | None = None, site: str = "") -> None:
        super().__init__(network, ConvGeometry((1, 1)), bias, site)

    @classmethod
    def replacing(cls, linear: nn.Linear, network: KroneckerNetwork, site: str = "") -> Self:
        """Stand in for ``linear`` with this network as its weight; bias, dtype, device, requires_grad and mode stay.

        Raises:
            UserInputError: the network's weight [F, C, 1, 1] has another shape.
        """
        return cls(network, linear.bias, site).in_place_of(linear)

    def dense_layer(self) -> SiteLayer:
        return self._filled(nn.Linear, self.in_features, self.out_features)

    @property
    def in_features(self) -> int:
        return self.structure.weight_shape[1]

    @property
    def out_features(self) -> int:
        return self.structure.weight_shape[0]

    @property
    def weight(self) -> Tensor:
        """[F, C]: what the layer would hold as an ``nn.Linear``."""
        return self.to_dense()[:, :, 0, 0]

    def forward(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return F.linear(x, self.weight, self.bias)
        output = self.operator(columns(x))
        return output.reshape(x.shape[0], self.out_features, *x.shape[1:-1]).movedim(1, -1)

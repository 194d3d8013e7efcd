"""``KroneckerConv2d``: a drop-in for ``nn.Conv2d`` whose weight is a Kronecker network."""

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronexport.export.operator import DOMAIN, METHOD_KEY, OP_TYPE, SITE_KEY, VERSION, operator_attributes
from kronexport.factorize.gkpd import gkpd
from kronexport.factorize.network import KroneckerNetwork, einsum_equation
from kronexport.records import ConvGeometry, Structure
from kronexport.survey.sites import conv_geometry


class KroneckerConv2d(nn.Module):
    """[N, C, H, W] -> [N, F, H', W'], computed as a conv by ``to_dense()``; trains and exports.

    In an ONNX export (``torch.onnx.export(dynamo=True)``) it becomes one ``com.kronexport::KroneckerConv`` node.

    Args:
        network: structure and initial values of the factors, float32.
        geometry: kernel (equal to the structure's), stride, pads in ONNX order, dilation.
        bias: [F], or None for a layer without one.
        site: the module's dotted path, written to the ONNX node.
    """

    bias: nn.Parameter | None
    zero_bias: Tensor

    def __init__(
        self, network: KroneckerNetwork, geometry: ConvGeometry, bias: Tensor | None = None, site: str = ""
    ) -> None:
        super().__init__()
        self.structure = network.structure
        self.geometry = geometry
        self.site = site
        self.factors = nn.ParameterList(
            nn.Parameter(torch.from_numpy(factor.astype(np.float32))) for factor in network.factors
        )
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.register_buffer("zero_bias", torch.zeros(self.structure.weight_shape[0]), persistent=False)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, structure: Structure, site: str = "") -> Self:
        """Factorize a conv's weight by GKPD (truncated SVD) and keep its bias.

        Raises:
            UserInputError: the structure does not divide the weight's shape, or its rank is too high.
        """
        network = gkpd(conv.weight.detach().cpu().numpy(), structure)
        return cls(network, conv_geometry(conv), conv.bias, site)

    def network(self) -> KroneckerNetwork:
        """The present factors, as arrays."""
        return KroneckerNetwork(self.structure, tuple(factor.detach().cpu().numpy() for factor in self.factors))

    def to_dense(self) -> Tensor:
        """The weight [F, C, kh, kw], differentiable in the factors."""
        product: Tensor = torch.einsum(einsum_equation(self.structure), *self.factors)
        return product.reshape(self.structure.weight_shape)

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self._operator(x)
        top, left, bottom, right = self.geometry.pads
        if (top, left) == (bottom, right):
            padding = (top, left)
        else:
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        geometry = self.geometry
        return F.conv2d(x, self.to_dense(), self.bias, geometry.stride, padding, geometry.dilation)

    def _operator(self, x: Tensor) -> Tensor:
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

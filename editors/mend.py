"""MEND: a small network maps the factors of a fine-tuning gradient to those of an edit.

Mitchell, Lin, Bosselut, Finn, Manning. Fast Model Editing at Scale. ICLR 2022. https://arxiv.org/abs/2110.11309
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from counterfact.editing.networks import Hypernetwork, NetworkSettings, hypernetwork
from counterfact.lm.edits.gradient_factors import Factors, LabelledRows
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape

PAPER = "https://arxiv.org/abs/2110.11309"
EPSILON = 1e-7
BLOCKS = 2
"""Residual blocks of a transform: one hidden layer, as the paper counts."""


class MendSettings(NetworkSettings):
    """Settings of MEND's training."""

    learning_rate: float = Field(1e-6, gt=0)
    """Adam's step size for the network."""
    rate_learning_rate: float = Field(1e-4, gt=0)
    """Adam's step size for the edit rates."""
    rank: int = Field(1920, ge=1)
    """Width of the bottleneck; never more than d_in + d_out."""
    init_sd: float = Field(1.0, gt=0)
    """Standard deviation of V at the start. Published: 1, for 8,000 inputs."""
    edit_rate: float = 1e-4
    """Edit rates at the start. Positive is gradient *ascent*; training turns the sign."""
    statistics_steps: int = Field(10, ge=0)
    """Batches that only feed the running statistics, before the first step."""
    seed: int = 0
    """Seed of the network's first weights."""


class GradientTransform(nn.Module):
    r"""One network for all projections of one shape, with a scale and a shift of its own for each (a *mode*).

    $z \leftarrow [\tilde x; \tilde g]$, both normalised by running statistics; then twice
    $z \leftarrow z + \max(0, s_m \odot (U V z + b) + o_m)$; the halves of z are $\hat x, \hat g$ (paper, section 3.2).
    At the start U, b and o are 0, so that the map is the identity on normalised factors.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(
        self, d_in: int, d_out: int, modes: int, rank: int, init_sd: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        width = d_in + d_out
        self.split = (d_in, d_out)
        drawn = [init_sd * torch.randn(min(rank, width), width, generator=generator) for _ in range(BLOCKS)]
        self.v = nn.ParameterList(drawn)
        self.u = nn.ParameterList(torch.zeros(width, min(rank, width)) for _ in range(BLOCKS))
        self.bias = nn.ParameterList(torch.zeros(width) for _ in range(BLOCKS))
        self.scale = nn.ParameterList(torch.ones(modes, width) for _ in range(BLOCKS))
        self.shift = nn.ParameterList(torch.zeros(modes, width) for _ in range(BLOCKS))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("squares", torch.zeros(width))

    @torch.no_grad()
    def observe(self, x: Tensor, g: Tensor) -> None:
        """Add rows (n, d_in), (n, d_out) to the running mean and sum of squared deviations (Chan et al. 1979)."""
        rows = torch.cat([x, g], 1).to(self.mean.dtype)
        if not len(rows):
            return
        mean, total = rows.mean(0), self.count + len(rows)
        apart = mean - self.mean
        self.squares += (rows - mean).square().sum(0) + apart.square() * (self.count * len(rows) / total)
        self.mean += apart * (len(rows) / total)
        self.count.copy_(total)

    def forward(self, x: Tensor, g: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        """Map rows (n, d_in), (n, d_out) of a projection to the same shapes, in normalised units.

        Raises:
            ValueError: fewer than two rows were ever observed.
        """
        if self.count < 2:
            raise ValueError("the statistics of a gradient transform need two rows at least")
        deviation = (self.squares / (self.count - 1)).sqrt()
        z = (torch.cat([x, g], 1).to(self.mean.dtype) - self.mean) / (deviation + EPSILON)
        for u, v, bias, scale, shift in zip(self.u, self.v, self.bias, self.scale, self.shift, strict=True):
            # clamp and not relu: at 0, where every network starts, its gradient is 1.
            z = z + (scale[mode] * (z @ v.T @ u.T + bias) + shift[mode]).clamp(min=0)
        d_in, _ = self.split
        return z[:, :d_in], z[:, d_in:]


@hypernetwork(
    "mend",
    MendSettings,
    title="MEND",
    paper=PAPER,
    summary="maps the gradient's factors to an edit's by a small network",
)
class Mend(Hypernetwork):
    r"""A transform for a shape and a rate for a projection: $W_n \mathrel{+}= \alpha_n \sum \hat x^\top \hat g$."""

    def __init__(self, lm: LM, settings: MendSettings) -> None:
        super().__init__(lm, settings)
        self.settings = settings
        shapes = [weight_shape(lm.model, name) for name in self.edited]
        kinds = list(dict.fromkeys(shapes))
        generator = torch.Generator().manual_seed(settings.seed)
        self.transforms = nn.ModuleList(
            GradientTransform(*shape, shapes.count(shape), settings.rank, settings.init_sd, generator)
            for shape in kinds
        )
        self.place = [(kinds.index(shape), shapes[:i].count(shape)) for i, shape in enumerate(shapes)]
        self.rates = nn.Parameter(torch.full((len(shapes),), settings.edit_rate))

    def observe(self, factors: Factors) -> None:
        """Feed the running statistics; rows whose x or g is 0 do not count."""
        for (kind, _), x, g in zip(self.place, factors.inputs, factors.gradients, strict=True):
            kept = _kept(x, g)
            self._transform(kind).observe(x[kept], g[kept])

    def forward(self, factors: Factors, rows: LabelledRows) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """See `Hypernetwork.forward`; the rank is the number of tokens."""
        changes = []
        for rate, (kind, mode), x, g in zip(self.rates, self.place, factors.inputs, factors.gradients, strict=True):
            kept = _kept(x, g)
            new_x, new_g = self._transform(kind)(x[kept], g[kept], mode)
            left, right = (new.new_zeros(*old.shape) for new, old in ((new_x, x), (new_g, g)))
            changes.append(
                (left.masked_scatter(kept[..., None], new_x), rate * right.masked_scatter(kept[..., None], new_g))
            )
        return changes

    def groups(self) -> list[dict[str, Any]]:
        """The networks, and the edit rates with a learning rate of their own."""
        return [
            {"params": list(self.transforms.parameters()), "lr": self.settings.learning_rate},
            {"params": [self.rates], "lr": self.settings.rate_learning_rate},
        ]

    def _transform(self, kind: int) -> GradientTransform:
        transform = self.transforms[kind]
        assert isinstance(transform, GradientTransform)
        return transform


def _kept(x: Tensor, g: Tensor) -> Tensor:
    """(rows, tokens): where neither x nor g is all zeros."""
    return (x != 0).any(-1) & (g != 0).any(-1)

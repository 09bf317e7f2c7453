"""KE (KnowledgeEditor, as MEND's authors trained it): a network reads the edit and scales the gradient.

De Cao, Aziz, Titov. Editing Factual Knowledge in Language Models. EMNLP 2021. https://arxiv.org/abs/2104.08164
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

from counterfact.editing.networks import Hypernetwork, NetworkSettings, hypernetwork
from counterfact.lm.edits.gradient_factors import Factors, LabelledRows
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape

PAPER = "https://arxiv.org/abs/2104.08164"


class KeSettings(NetworkSettings):
    """Settings of KE's training."""

    learning_rate: float = Field(1e-5, gt=0)
    """Adam's step size."""
    fewest_text_labels: int = Field(1, ge=1)
    """Fewest tokens at the end of a plain text that are its labels; the number is drawn evenly."""
    most_text_labels: int = Field(1, ge=1)
    """Most tokens at the end of a plain text that are its labels."""
    lstm: int = Field(512, ge=1)
    """State of the encoder in each direction."""
    condition: int = Field(768, ge=1)
    """Width of the encoded edit."""
    hidden: int = Field(512, ge=1)
    """Hidden width of the head of each projection."""
    max_scale: float = Field(1.0, gt=0)
    """The most that a gradient is scaled by."""
    seed: int = 0
    """Seed of the network's first weights."""


class Conditioner(nn.Module):
    r"""Reads an edit's code and returns, for one projection, two rank-one matrices and a scale.

    $A = \mathrm{softmax}(a_r)^\top a_c$ and $B = \mathrm{softmax}(b_r)^\top b_c$ of shape (d_in, d_out), and $\eta$.
    """

    def __init__(self, condition: int, hidden: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.split = (d_out, d_in, d_out, d_in, 1)
        self.first = weight_norm(nn.Linear(condition, hidden))
        self.second = weight_norm(nn.Linear(hidden, sum(self.split)))

    def forward(self, code: Tensor) -> tuple[Tensor, ...]:
        """Map codes (edits, condition) to a_c, softmax(a_r), b_c, softmax(b_r) and sigmoid(eta), (edits, ...) each."""
        a_columns, a_rows, b_columns, b_rows, eta = self.second(self.first(code).tanh()).split(self.split, 1)
        return a_columns, a_rows.softmax(1), b_columns, b_rows.softmax(1), eta.sigmoid()


@hypernetwork(
    "ke", KeSettings, title="KE", paper=PAPER, summary="reads the edit by an LSTM and scales and shifts the gradient"
)
class Ke(Hypernetwork):
    r"""$W \mathrel{+}= m \sigma(\eta) (G \odot A + B)$ with the gradient $G = \sum_t x_t^\top g_t$ and m = `max_scale`.

    A is of rank one, so that $G \odot A = \sum_t (a_r \odot x_t)^\top (a_c \odot g_t)$ stays in factors: one for each
    token, and one for B. The reference edits one example at a time; here a batch is.
    """

    def __init__(self, lm: LM, settings: KeSettings) -> None:
        super().__init__(lm, settings)
        self.settings = settings
        words = lm.model.get_input_embeddings().weight.detach().float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            # Token 0 gets no gradient: the reference pads with it.
            self.words = nn.Embedding(words.shape[0], words.shape[1], padding_idx=0)
            self.lstm = nn.LSTM(words.shape[1], settings.lstm, batch_first=True, bidirectional=True)
            self.code = nn.Linear(2 * settings.lstm, settings.condition)
            shapes = [weight_shape(lm.model, name) for name in self.edited]
            self.heads = nn.ModuleList(Conditioner(settings.condition, settings.hidden, *shape) for shape in shapes)
        with torch.no_grad():
            self.words.weight.copy_(words)

    def encode(self, rows: LabelledRows) -> Tensor:
        """Return the codes of edits, (edits, condition), from all tokens of their texts."""
        packed = pack_padded_sequence(self.words(rows.ids), rows.lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (states, _) = self.lstm(packed)
        coded: Tensor = self.code(torch.cat([states[0], states[1]], 1)).tanh()
        return coded

    def forward(self, factors: Factors, rows: LabelledRows) -> list[tuple[Tensor, Tensor]]:
        """See `Hypernetwork.forward`; the rank is the number of tokens and one."""
        code = self.encode(rows)
        changes = []
        for head, x, g in zip(self.heads, factors.inputs, factors.gradients, strict=True):
            a_columns, a_rows, b_columns, b_rows, share = head(code)
            scale = self.settings.max_scale * share[:, None]
            left = torch.cat([a_rows[:, None] * x.to(code.dtype), b_rows[:, None]], 1)
            right = torch.cat([a_columns[:, None] * g.to(code.dtype), b_columns[:, None]], 1)
            changes.append((left, scale * right))
        return changes

    def groups(self) -> list[dict[str, Any]]:
        """All parameters, with one learning rate."""
        return [{"params": list(self.parameters()), "lr": self.settings.learning_rate}]

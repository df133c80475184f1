"""The DeepSpeech model: context windows, dense layers, one LSTM, one output per frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.losses import CTC, Reduction
from leakscope.targets.recipes.architecture import AbstractArchitecture


def windows(frames: Tensor, context: int) -> Tensor:
    """Each frame with `context` neighbors on both sides, oldest first, zeros outside: (B, T, F) to (B, T, (2c+1) F).

    >>> windows(torch.tensor([[[1.0], [2.0]]]), 1)
    tensor([[[0., 1., 2.],
             [1., 2., 0.]]])
    """
    count = frames.shape[1]
    # zeros before and after the utterance: the last axis is padded first, then time
    padded = F.pad(frames, (0, 0, context, context))
    return torch.cat([padded[:, i : i + count] for i in range(2 * context + 1)], 2)


@final
class ClippedReLU(nn.Module):
    """min(max(z, 0), clip); its derivative is 1 strictly between and 0 elsewhere."""

    def __init__(self, clip: float) -> None:
        nn.Module.__init__(self)
        self.clip = clip

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise."""
        return torch.clamp(torch.relu(z), max=self.clip)


@final
class _Recurrence(torch.autograd.Function):
    """The LSTM's loop over time. given (T, B, 4H), weight (4H, H) to the states h and c (T, B, H).

    Automatic differentiation would add a (4H, H) outer product to the weight's gradient at every frame; here all frames
    enter in one product at the end. The backward pass consists of differentiable operations on what was saved.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(given: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The states after every frame."""
        # the first frame is preceded by zeros, of its dtype and on its device
        hidden = cell = torch.zeros_like(given[0, :, : weight.shape[1]])
        hiddens, cells = [], []
        for frame in given.unbind():
            # V h_(t-1) is added to W x_t + b, which was computed for all frames at once
            i, f, g, o = (frame + hidden @ weight.T).chunk(4, 1)
            # c_t = s(f) c_(t-1) + s(i) tanh(g); h_t = s(o) tanh(c_t)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
            hiddens.append(hidden)
            cells.append(cell)
        return torch.stack(hiddens), torch.stack(cells)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Keeps the states; both are outputs, so that the backward pass can be differentiated through them."""
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """From the gradients of h and c those of `given` and `weight`."""
        given, weight, hiddens, cells = ctx.saved_tensors
        before, cell_before = _shifted(hiddens), _shifted(cells)
        # the gates again from the saved states: saving them would take four times the memory
        i, f, g, o = (given + before @ weight.T).chunk(4, 2)
        i, f, g, o, squashed = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o), torch.tanh(cells)
        # dh_t / dc_t = s(o) (1 - tanh(c_t)^2)
        through_cell = o * (1 - squashed.square())
        # dc_t by the arguments of i, f and g: tanh(g) s(i)(1 - s(i)), c_(t-1) s(f)(1 - s(f)), s(i)(1 - tanh(g)^2)
        slopes = torch.cat([g * i * (1 - i), cell_before * f * (1 - f), i * (1 - g.square())], 2)
        # dh_t by the argument of o: tanh(c_t) s(o)(1 - s(o))
        slope_o = squashed * o * (1 - o)
        d_hidden = d_cell = torch.zeros_like(hiddens[0])
        d_given: list[Tensor] = []
        for t in reversed(range(len(hiddens))):
            # what the loss says of h_t directly, and through frame t + 1
            at_hidden = gradients[0][t] + d_hidden
            # of c_t directly, through frame t + 1, and through h_t
            at_cell = gradients[1][t] + d_cell + at_hidden * through_cell[t]
            three, last = at_cell.repeat(1, 3) * slopes[t], at_hidden * slope_o[t]
            # rows in the order i, f, g, o
            d_given.append(torch.cat([three, last], 1))
            # to the frame before: h_(t-1) enters by V, c_(t-1) by s(f)
            d_hidden, d_cell = d_given[-1] @ weight, at_cell * f[t]
        stacked = torch.stack(d_given[::-1])
        # dV = sum_t dz_t h_(t-1)^T, in one product over all frames and examples
        return stacked, stacked.flatten(0, 1).T @ before.flatten(0, 1)


def _shifted(states: Tensor) -> Tensor:
    """What was before each frame; zeros before the first."""
    return torch.cat([torch.zeros_like(states[:1]), states[:-1]])


@final
class LSTM(nn.Module):
    """c_t = s(f) c_(t-1) + s(i) tanh(g), h_t = s(o) tanh(c_t), (i, f, g, o) = W x_t + V h_(t-1) + b, s the sigmoid.

    One bias vector, no peepholes, forget bias 0: TensorFlow's cell, whose columns are i, g, f, o. Parameters:
    weight_ih (4H, inputs), weight_hh (4H, H), bias (4H,), rows in torch's order i, f, g, o. Starts from zeros.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        nn.Module.__init__(self)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, inputs) to (B, T, H); causal."""
        # all frames at once: only V h_(t-1) has to wait for the frame before
        given = F.linear(x, self.weight_ih, self.bias)
        hidden: Tensor = _Recurrence.apply(given.transpose(0, 1), self.weight_hh)[0]  # type: ignore[no-untyped-call]
        return hidden.transpose(0, 1)


@final
class _Network(nn.Module):
    def __init__(self, recipe: DeepSpeech, classes: int) -> None:
        nn.Module.__init__(self)
        hidden = recipe.hidden
        self.context = recipe.context
        self.activation = ClippedReLU(recipe.relu_clip)
        self.layer_1 = nn.Linear((2 * recipe.context + 1) * recipe.coefficients, hidden)
        self.dropout_1 = nn.Dropout(recipe.dropout)
        self.layer_2 = nn.Linear(hidden, hidden)
        self.dropout_2 = nn.Dropout(recipe.dropout)
        self.layer_3 = nn.Linear(hidden, hidden)
        self.dropout_3 = nn.Dropout(recipe.dropout)
        self.lstm = LSTM(hidden, hidden)
        self.layer_5 = nn.Linear(hidden, hidden)
        self.dropout_5 = nn.Dropout(recipe.dropout)
        self.layer_6 = nn.Linear(hidden, classes)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, F) to logits (B, T, classes)."""
        h = self.dropout_1(self.activation(self.layer_1(windows(frames, self.context))))
        h = self.dropout_2(self.activation(self.layer_2(h)))
        h = self.dropout_3(self.activation(self.layer_3(h)))
        h = self.dropout_5(self.activation(self.layer_5(self.lstm(h))))
        logits: Tensor = self.layer_6(h)
        return logits


@final
@dataclass(frozen=True)
class DeepSpeech(AbstractArchitecture):
    """Dense layers 1-3 on windows of 2 * context + 1 frames, an LSTM, dense layer 5, one output per frame and class.

    Dense layers but the last end in min(max(z, 0), relu_clip), then dropout at rate `dropout`, which drops only with
    `training`. Weights Glorot-uniform (the LSTM's as one matrix over input and state), biases 0. Loss: CTC, the blank
    is the last class. 47 224 861 parameters by default and for 29 classes: Hannun et al. 2014 (arXiv:1412.5567),
    section 2, as in Mozilla DeepSpeech 0.7. Parameters: layer_1.weight, layer_1.bias, ..., lstm.weight_ih,
    lstm.weight_hh, lstm.bias, layer_5.weight, ..., layer_6.bias. Frames beyond an utterance must be zero.
    Raises `BadInput` on sizes below 1, a negative context, a rate outside [0, 1) or a clip that is not positive.

    >>> from leakscope.domains.speech import Frames
    >>> DeepSpeech(hidden=8).build(Frames(26), 29, key=Key(0)).count()
    4981
    """

    hidden: int = 2048
    context: int = 9
    coefficients: int = 26
    dropout: float = 0.0
    relu_clip: float = 20.0
    reduction: Reduction = Reduction.SUM
    training: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reduction", Reduction(self.reduction))
        if self.hidden < 1 or self.coefficients < 1 or self.context < 0:
            raise BadInput(
                "expected hidden >= 1, coefficients >= 1 and context >= 0, "
                f"got {self.hidden}, {self.coefficients}, {self.context}"
            )
        if not 0 <= self.dropout < 1:
            raise BadInput(f"expected 0 <= dropout < 1, got {self.dropout}")
        if not self.relu_clip > 0:
            raise BadInput(f"expected relu_clip > 0, got {self.relu_clip}")

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`; `classes` counts the blank.

        Raises `BadInput` when the domain's inputs are not (T, coefficients) with any T, or on fewer than 2 classes.
        """
        if not all(domain.fits(torch.empty(1, frames, self.coefficients)) for frames in (1, 2)):
            raise BadInput(f"{self!r} takes Frames({self.coefficients}), got {domain!r}; make the two agree")
        if classes < 2:
            raise BadInput(f"expected at least one character and the blank, got {classes} classes")
        # no memory and no draws: every parameter is written below, from a key of its own name
        with torch.device("meta"):
            module = _Network(self, classes)
        module.to_empty(device="cpu")
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                _draw(parameter, name, key.child("weights", name))
        loss = CTC(self.reduction, blank=classes - 1)
        return Target(module, domain, classes, name=repr(self), training=self.training, loss=loss)


def _draw(parameter: nn.Parameter, name: str, key: Key) -> None:
    """Zeros for a bias; U(-r, r), r = sqrt(6 / (inputs + outputs)), for a weight (Glorot and Bengio 2010, eq. 16)."""
    if parameter.dim() == 1:
        parameter.zero_()
        return
    outputs, inputs = parameter.shape
    if name.startswith("lstm."):
        inputs += outputs // 4  # input and state enter through one matrix
    reach = math.sqrt(6 / (inputs + outputs))
    parameter.uniform_(-reach, reach, generator=key.generator())

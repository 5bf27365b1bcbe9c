"""Gradients as part of a graph: what ``torch.export`` cannot hold, written out as plain operations.

Maps of classes of a network whose head is not one linear layer on averages take a small backward pass, from
the logits to the last features. It is run once on tensors without values that write down what is done to
them, so that the file does it forwards like all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from foveate.deploy.export.pipeline import Answers

_aten: Any = torch.ops.aten


class WithBackwardPass(nn.Module):
    """Written down ``Answers`` with the maps of classes: called as they are, on any number of cases.

    Args:
        steps: everything as plain operations, from the views in order to the outputs in order.
        names: of the outputs.
    """

    def __init__(self, steps: GraphModule, names: Sequence[str]) -> None:
        super().__init__()
        self.steps, self.names = steps, tuple(names)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs that ``engines.graph`` names, for views ``(B, C, *size)``."""
        return dict(zip(self.names, self.steps(*batch.values()), strict=True))


def with_backward_pass(answers: Answers, batch: dict[str, Tensor]) -> WithBackwardPass:
    """Write down answers and their maps of classes.

    Args:
        answers: in evaluation mode.
        batch: an example by view, of at least two cases.
    """
    first, names = {view: {0: Dim.DYNAMIC} for view in batch}, list(answers(batch))
    program = torch.export.export(answers, (batch,), dynamic_shapes=(first,), strict=False)
    forward = _with_plain_averages(program.module(check_guards=False))
    told: list[str] = []

    def run(*views: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            seen = {view: x.detach().requires_grad_() for view, x in zip(batch, views, strict=True)}
            found = answers.with_class_maps(dict(zip(names, forward(seen).values(), strict=True)))
        told[:] = found
        return [values.detach() for values in found.values()]

    # tensors without values, of which torch.export knows that their first axis has any length
    empty = [
        node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    ]
    steps = make_fx(run, _TABLE, tracing_mode="fake", _allow_non_fake_inputs=True)(*empty)
    steps.graph.eliminate_dead_code()
    steps.recompile()
    return WithBackwardPass(steps, told)


def _with_plain_averages(module: GraphModule) -> GraphModule:
    """Pooling to one place as a mean: torch's own sets strides by hand, which has no gradient in ONNX."""
    for node in module.graph.nodes:
        if node.target is _aten.adaptive_avg_pool2d.default and tuple(node.args[1]) == (1, 1):
            node.target, node.args = _aten.mean.dim, (node.args[0], [-2, -1], True)
    module.recompile()
    return module


def _convolution_backward(*given: Any) -> tuple[Tensor | None, None, None]:
    """The gradient at a convolution's input: the transposed convolution, which ONNX has.

    Args:
        given: as ``aten::convolution_backward`` takes them.
    """
    gradient, values, weight, _, stride, padding, dilation, transposed, _, groups, wanted = given
    assert not transposed and not any(wanted[1:]), "only gradients at features are asked for"
    if not wanted[0]:
        return None, None, None
    lost = [
        length - ((short - 1) * step - 2 * edge + apart * (size - 1) + 1)
        for length, short, size, step, edge, apart in zip(
            values.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    back = _aten.convolution(gradient, weight, None, stride, padding, dilation, True, lost, groups)
    return back, None, None


_TABLE = {_aten.convolution_backward.default: _convolution_backward}

"""A timm backbone taken apart at strides 8, 16 and 32, and running modules on the cases that have a view.

That the parts are the whole is found out by calculation and not by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveate.contract import InputSpec
from foveate.errors import UsageError
from foveate.models.timm.backbones import timm_classifier

STRIDES = (8, 16, 32)
_HEAD = 1000  # classes of the head that is thrown away: as many as most weights have, so that they fit


class Stages(nn.Module):
    """The trunk of a timm network as three parts that follow each other, so that work can go on between.

    The parts end where the map has an 8th, a 16th and a 32nd of the input's size; what comes after (a last
    norm, pooling, the head) is left out.

    Args:
        architecture: a name of ``timm.list_models()``.
        spec: one view; its size and channels are what the network is built and tried for.
        pretrained: as for ``timm_classifier``.

    Attributes:
        parts: the three.
        channels: of the map that each part hands out.

    Raises:
        UsageError: unknown architecture; or its stages are no chain of modules (several paths that meet
            later), or there is none at one of the strides (plain vision transformers).
    """

    def __init__(self, architecture: str, spec: InputSpec, *, pretrained: bool | str = False) -> None:
        super().__init__()
        net: Any = timm_classifier(architecture, _HEAD, spec, pretrained=pretrained).net
        ends = _ends(architecture, net)
        self.channels = tuple(channels for _, channels in ends)
        self.parts = nn.ModuleList(_parts(architecture, net, [path for path, _ in ends]))
        net.eval()
        noise = torch.randn(1, spec.channels, *spec.size, generator=torch.Generator().manual_seed(0))
        self._channels_last = _check_chain(architecture, net, self.parts, [path for path, _ in ends], noise)
        net.train()

    def run(self, part: int, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D k l"]:
        """What part 0, 1 or 2 makes of the picture, or of the map of the part before."""
        if self._channels_last and part > 0:
            x = x.permute(0, 2, 3, 1)
        result: Tensor = self.parts[part](x)
        return result.permute(0, 3, 1, 2) if self._channels_last else result


def where_there(
    run: Callable[[Tensor], Tensor], owner: nn.Module, x: Tensor, there: Bool[Tensor, "B"] | None
) -> Tensor:
    """Run a module on the cases that have a view, and give zeros for the others.

    The zeros that stand for a missing picture would otherwise enter the statistics of batch norms.

    Args:
        run: the module, or a function that calls it.
        owner: the module.
        x: ``(B, ...)``.
        there: ``(B,)`` which cases have the view; None runs all of them, which in evaluation, where no
            case touches another, is the same and quicker.

    Returns:
        ``(B, ...)``. If no case has the view the module runs as in evaluation, so that its parameters
        still get a gradient (of zero, once the caller has masked the result).
    """
    if there is None:
        return run(x)
    if not there.any():
        with _evaluating(owner):
            return run(x)
    found = run(x[there])
    return found.new_zeros(len(x), *found.shape[1:]).index_put((there,), found)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode for a while."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _ends(architecture: str, net: Any) -> list[tuple[str, int]]:
    """Path and channels of the last module at each stride, as timm describes them."""
    described = getattr(net, "feature_info", [])
    found = {stage["reduction"]: (stage["module"], stage["num_chs"]) for stage in described}
    missing = [stride for stride in STRIDES if stride not in found]
    if missing:
        raise _no_stages(architecture, f"it has no stage at stride {missing[0]}")
    return [found[stride] for stride in STRIDES]


def _parts(architecture: str, net: nn.Module, ends: Sequence[str]) -> list[nn.Sequential]:
    """The network's modules in their order, cut after each of the ends."""
    opened = {end.partition(".")[0] for end in ends if "." in end}
    modules: list[tuple[str, nn.Module]] = []
    for name, child in net.named_children():
        if name in opened:
            modules += [(f"{name}.{inner}", module) for inner, module in child.named_children()]
        else:
            modules.append((name, child))
    paths = [path for path, _ in modules]
    if not set(ends) <= set(paths):
        raise _no_stages(architecture, f"its stages {', '.join(ends)} are not modules in a row")
    cuts = [0, *(paths.index(end) + 1 for end in ends)]
    rows = [modules[start:stop] for start, stop in pairwise(cuts)]
    return [nn.Sequential(OrderedDict((path.replace(".", "_"), m) for path, m in row)) for row in rows]


@torch.no_grad()
def _check_chain(
    architecture: str, net: Any, parts: nn.ModuleList, ends: Sequence[str], noise: Tensor
) -> bool:
    """Whether maps are ``(B, h, w, C)``; raises unless the parts give what the whole network computes."""
    expected: dict[str, Tensor] = {}
    handles = [
        net.get_submodule(end).register_forward_hook(
            lambda _module, _inputs, result, end=end: expected.update({end: result.clone()})
        )
        for end in ends
    ]
    try:
        net.forward_features(noise)
        found = [noise]
        for part in parts:
            found.append(part(found[-1]))
    except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise _no_stages(architecture, f"its modules do not run one after the other: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    # Compared at the end: a part that changes the map of the one before in place is found out too.
    pairs = zip(found[1:], (expected[end] for end in ends), strict=True)
    if not all(a.shape == b.shape and a.ndim == 4 and torch.allclose(a, b) for a, b in pairs):
        raise _no_stages(architecture, "its modules, run one after the other, do not give its features")
    return getattr(net, "output_fmt", "NCHW") == "NHWC"


def _no_stages(architecture: str, why: str) -> UsageError:
    return UsageError(
        f"it cannot be taken apart at strides {', '.join(map(str, STRIDES))}: {why}",
        where=f"encoder {architecture}",
        fix="choose a pyramid of stages, such as resnet18, resnet50, densenet121, convnext_tiny, "
        "efficientnet_b0 or swin_tiny_patch4_window7_224",
        code="no-stages",
    )

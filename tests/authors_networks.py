"""The networks of LCA-DB's public code, restated as plain functions of a state dict with its keys.

Written from the description of what that code computes, without any class of ours. Inputs are
``(B, V, X, Y, Z)``, the file's own order of axes, as that code reads them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as f

State = dict[str, Tensor]
TILE = 32


def draw_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Weights for keys and shapes, with statistics of batch norms that do something."""
    chance = torch.Generator().manual_seed(seed)

    def drawn(key: str, shape: tuple[int, ...]) -> Tensor:
        if key.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            return torch.rand(shape, generator=chance) + 0.5
        if len(shape) == 1:
            return 0.1 * torch.randn(shape, generator=chance)
        return torch.randn(shape, generator=chance) * (2 / torch.Size(shape[1:]).numel()) ** 0.5

    return {key: drawn(key, shape) for key, shape in shapes.items()}


def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    entries = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{entry}": (channels,) for entry in entries}, f"{name}.num_batches_tracked": ()}


def linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def mlp_shapes(name: str, *sizes: int, indices: tuple[int, ...] = (0, 2, 4)) -> dict[str, tuple[int, ...]]:
    pairs = zip(indices, sizes, sizes[1:], strict=False)
    return {k: s for i, a, b in pairs for k, s in linear_shapes(f"{name}.{i}", a, b).items()}


def stage_names(suffix: str, bare: bool) -> list[str]:
    """Two of the networks call their last stages layer3 and layer4 whatever the branch."""
    return [f"layer{n}" if bare and n > 2 else f"layer{n}_{suffix}" for n in (1, 2, 3, 4)]


def trunk_shapes(
    suffix: str,
    widths: tuple[int, ...],
    *,
    bare: bool = False,
    stem: int | None = None,
    blocks: tuple[int, ...] = (1, 1, 1, 1),
    views: int = 8,
) -> dict[str, tuple[int, ...]]:
    inputs = stem or widths[0]
    shapes: dict[str, tuple[int, ...]] = {f"conv1_{suffix}.weight": (inputs, views, 3, 3, 3)}
    shapes |= norm_shapes(f"bn1_{suffix}", inputs)
    for stage, (name, outputs, count) in enumerate(
        zip(stage_names(suffix, bare), widths, blocks, strict=True)
    ):
        for index in range(count):
            block = f"{name}.{index}"
            shapes[f"{block}.conv1.weight"] = (outputs, inputs, 3, 3, 3)
            shapes |= norm_shapes(f"{block}.bn1", outputs)
            shapes[f"{block}.conv2.weight"] = (outputs, outputs, 3, 3, 3)
            shapes |= norm_shapes(f"{block}.bn2", outputs)
            if index == 0 and (stage or inputs != outputs):
                shapes[f"{block}.downsample.0.weight"] = (outputs, inputs, 1, 1, 1)
                shapes |= norm_shapes(f"{block}.downsample.1", outputs)
            inputs = outputs
    return shapes


def coarse_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    return {
        "conv5.weight": (channels, channels, 1, 4, 4),
        **norm_shapes("bn5", channels),
        "conv6.weight": (channels, channels, 1, 1, 1),
        **norm_shapes("bn6", channels),
    }


def norm(s: State, name: str, x: Tensor) -> Tensor:
    statistics = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    return f.batch_norm(x, *statistics, s[f"{name}.weight"], s[f"{name}.bias"])


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return f.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])


def planes_of(x: Tensor) -> Tensor:
    """(B, V, X, Y, Z) → (B, V, Z, X, Y)."""
    return x.permute(0, 1, 4, 2, 3)


def tiles_of(x: Tensor) -> Tensor:
    """(B, V, X, Y, Z) → (B · N, V, Z, 32, 32), the tiles row by row, rows along X."""
    planes = planes_of(x)
    rows, cols = planes.shape[3] // TILE, planes.shape[4] // TILE
    cut = [
        planes[:, :, :, TILE * row : TILE * (row + 1), TILE * col : TILE * (col + 1)]
        for row in range(rows)
        for col in range(cols)
    ]
    return torch.stack(cut, dim=1).flatten(0, 1)


def trunk(s: State, suffix: str, x: Tensor, *, pool: bool, bare: bool = False) -> Tensor:
    x = norm(s, f"bn1_{suffix}", f.conv3d(x, s[f"conv1_{suffix}.weight"], padding=1)).relu()
    if pool:
        x = f.max_pool3d(x, 3, 2, 1)
    for stage, name in enumerate(stage_names(suffix, bare)):
        index = 0
        while f"{name}.{index}.conv1.weight" in s:
            block, stride = f"{name}.{index}", 2 if stage and not index else 1
            h = norm(s, f"{block}.bn1", f.conv3d(x, s[f"{block}.conv1.weight"], stride=stride, padding=1))
            h = norm(s, f"{block}.bn2", f.conv3d(h.relu(), s[f"{block}.conv2.weight"], padding=1))
            if f"{block}.downsample.0.weight" in s:
                x = f.conv3d(x, s[f"{block}.downsample.0.weight"], stride=stride)
                x = norm(s, f"{block}.downsample.1", x)
            x, index = (x + h).relu(), index + 1
    return x


def weighted(s: State, head: str, x: Tensor, gamma: int) -> Tensor:
    """Loss-based attention: (B, N, C) → (B, C)."""
    e = linear(s, head, x).square().sum(dim=2).sqrt()
    a = (e / e.sum(dim=1, keepdim=True) - 0.1 / gamma).relu()
    a = a / a.sum(dim=1, keepdim=True)
    return (a[:, :, None] * x).sum(dim=1)


def image_instances(s: State, x: Tensor, *, bare: bool = False) -> tuple[Tensor, int]:
    x = trunk(s, "compose", planes_of(x), pool=False, bare=bare)
    cells = x[0, 0].numel()
    x = norm(s, "bn5", f.conv3d(x, s["conv5.weight"], stride=4)).relu()
    x = norm(s, "bn6", f.conv3d(x, s["conv6.weight"])).relu()
    return x.flatten(2).mT, cells


def patch_instances(s: State, x: Tensor, *, bare: bool = False) -> Tensor:
    found = trunk(s, "patch_com", tiles_of(x), pool=True, bare=bare)
    return found.mean(dim=(2, 3, 4)).unflatten(0, (len(x), -1))


def crossatten(s: State, x: Tensor) -> Tensor:
    image, cells = image_instances(s, x)
    patch = patch_instances(s, x)
    v = weighted(s, "linear1", image, cells) + weighted(s, "linear2", patch, patch.shape[1])
    return linear(s, "bag_classifier", v)


def ra_net(s: State, x: Tensor) -> Tensor:
    image, cells = image_instances(s, x, bare=True)
    return linear(s, "bag_classifier", weighted(s, "bag_classifier", image, cells))


def pa_net(s: State, x: Tensor) -> Tensor:
    patch = patch_instances(s, x)
    return linear(s, "bag_classifier", weighted(s, "bag_classifier", patch, patch.shape[1]))


def rnet(s: State, x: Tensor) -> Tensor:
    found = trunk(s, "resbase", planes_of(x), pool=True, bare=True)
    return linear(s, "bag_classifier", found.mean(dim=(2, 3, 4)))


def ma(s: State, x: Tensor) -> Tensor:
    both = [trunk(s, name, planes_of(x), pool=False) for name in ("neta", "netb")]
    pooled = (both[0] + both[1]).mean(dim=(2, 3, 4))
    return linear(s, "bag_classifier.2", linear(s, "bag_classifier.0", pooled))


def resmil(s: State, x: Tensor) -> Tensor:
    patch = patch_instances(s, x, bare=True)
    h = linear(s, "attention_patch_com.0", patch).relu()
    h = linear(s, "attention_patch_com.2", h).tanh()
    a = linear(s, "attention_patch_com.4", h).softmax(dim=1)
    return linear(s, "bag_classifier", (a * patch).sum(dim=1))


def deepganet(s: State, x: Tensor) -> Tensor:
    patch = patch_instances(s, x)
    v = weighted(s, "bag_classifier", patch, patch.shape[1])
    return linear(s, "bag_classifier", linear(s, "fc.2", v.relu()))


DAMIDL_PHASES = ("in", "adc", "b500", "ap", "pvp", "dp", "t1", "t2")


def conv(s: State, name: str, x: Tensor, **options: int) -> Tensor:
    return f.conv3d(x, s[f"{name}.weight"], s[f"{name}.bias"], **options)


def damidl(s: State, x: Tensor) -> Tensor:
    """Tiles of a quarter of the plane's edge; a softmax at the end."""
    assert x.shape[2] == x.shape[3] == 4 * TILE
    vectors = []
    for index, phase in enumerate(DAMIDL_PHASES):
        h = tiles_of(x[:, [index]])
        for number in (1, 2, 3, 4):
            layer = f"patch_net_{phase}.features"
            h = norm(s, f"{layer}.norm{number}", conv(s, f"{layer}.conv{number}", h)).relu()
            h = f.max_pool3d(h, 2) if number == 2 else h
        score = linear(s, f"patch_net_{phase}.classify.0", h.mean(dim=(2, 3, 4))).sigmoid()
        both = torch.cat([h.mean(dim=1, keepdim=True), h.max(dim=1, keepdim=True).values], dim=1)
        h = h * conv(s, f"patch_net_{phase}.spatial_attention.cs.0", both, padding=1).sigmoid()
        maps = h.unflatten(0, (len(x), -1)).mean(dim=2)  # (B, 16, 1, 9, 9)
        gate = score.view(len(x), -1, 1, 1, 1)
        for pooled in (maps.mean(dim=(2, 3, 4), keepdim=True), maps.amax(dim=(2, 3, 4), keepdim=True)):
            gate = gate + conv(s, "attention_net.Attn.2", conv(s, "attention_net.Attn.0", pooled).relu())
        h = norm(s, "reduce_channels.1", conv(s, "reduce_channels.0", maps * gate.sigmoid())).relu()
        h = norm(s, "reduce_channels.4", conv(s, "reduce_channels.3", h)).relu()
        vectors.append(h.mean(dim=(2, 3, 4)))
    each = torch.stack(vectors, dim=1)
    a = linear(s, "attention_all.2", linear(s, "attention_all.0", each).relu()).tanh()
    v = (linear(s, "attention_all.4", a).softmax(dim=1) * each).sum(dim=1)
    return linear(s, "fc.2", linear(s, "fc.0", v).relu()).softmax(dim=1)


def conv_shapes(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def damidl_shapes(widths: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for phase in DAMIDL_PHASES:
        net = f"patch_net_{phase}"
        shapes |= conv_shapes(f"{net}.spatial_attention.cs.0", 1, 2, 3, 3, 3)
        for number, (inputs, outputs) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            kernel = (4, 4, 4) if number == 1 else (3, 3, 3)
            shapes |= conv_shapes(f"{net}.features.conv{number}", outputs, inputs, *kernel)
            shapes |= norm_shapes(f"{net}.features.norm{number}", outputs)
        shapes |= linear_shapes(f"{net}.classify.0", widths[-1], 1)
    shapes |= conv_shapes("attention_net.Attn.0", 8, 16, 1, 1, 1)
    shapes |= conv_shapes("attention_net.Attn.2", 16, 8, 1, 1, 1)
    shapes |= linear_shapes("attention_net.pearson_attn", 15, 1)
    shapes |= conv_shapes("reduce_channels.0", 128, 16, 1, 2, 2) | norm_shapes("reduce_channels.1", 128)
    shapes |= conv_shapes("reduce_channels.3", 64, 128, 1, 2, 2) | norm_shapes("reduce_channels.4", 64)
    shapes |= mlp_shapes("fc", 64, 32, classes, indices=(0, 2))
    return shapes | mlp_shapes("attention_all", 64, 64, 32, 1)


def save_checkpoint(path: Path, state: State, *, parallel: bool = False) -> None:
    """A file as the public code writes it: epoch, weights, scores (one of them NumPy's) and optimizer.

    Its NumPy is 1, in which what rebuilds a scalar lies in ``numpy.core``.
    """
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=1e-4)
    parameter.grad = torch.ones(2)
    optimizer.step()
    content: dict[str, Any] = {
        "epoch": 41,
        "model": {("module." if parallel else "") + key: value for key, value in state.items()},
        "best_acc": 0.7468354430379747,
        "best_f1": np.float64(0.75),
        "optimizer": optimizer.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as written, zipfile.ZipFile(path, "w") as file:
        for name, data in _members(written):
            file.writestr(name, data)


def _members(file: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for name in file.namelist():
        data = file.read(name)
        if name.endswith("data.pkl"):
            assert b"cnumpy._core.multiarray\nscalar\n" in data
            data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        yield name, data

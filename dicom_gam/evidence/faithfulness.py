"""Whether an attention map shows what the network used (insertion, deletion, ROAD) and depends on what it learned.

Inputs `x` are (N, C, H, W), maps (N, h, w) of any resolution, `targets` (N,) the explained classes. Whatever is
drawn at random comes from the given seed, so equal calls give equal figures.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.progress import track
from scipy.stats import rankdata
from torch import Tensor, nn

from dicom_gam.core.attention import explain
from dicom_gam.core.network import SplitNetwork
from dicom_gam.core.similarity import pearson, ssim

Predict = Callable[[Tensor], Tensor]
STEPS = 10  # of the insertion and deletion curves
BLUR = 1 / 8  # σ of the insertion baseline, in image sides: radiographs are told apart by their coarse structure
REMOVED = (0.2, 0.4, 0.6, 0.8)  # shares of the pixels that ROAD removes
NOISE = 0.01  # added to imputed pixels, in units of the network's input (ROAD's own value)
STAGES = (("head", 0.0), ("head and last third", 1 / 3), ("head and last two thirds", 2 / 3), ("everything", 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class Faithfulness:
    """For each image (N,): insertion AUC (high is good), deletion AUC (low is good), ROAD (high is good)."""

    insertion: Tensor
    deletion: Tensor
    road: Tensor


@dataclass(frozen=True, slots=True)
class Sanity:
    """How alike maps stay, on average over images, when parameters are randomised as `stage` says; low is good.

    `n` counts the images whose map was not degenerate before or after; the figures are NaN when there is none.
    """

    stage: str
    pearson: float
    spearman: float
    ssim: float
    n: int


def predictor(network: SplitNetwork) -> Predict:
    """A split network as one function from inputs to logits (N, K)."""

    def predict(x: Tensor) -> Tensor:
        with torch.inference_mode():
            trunk = network.trunk(x)
            return network.head(trunk.activations, trunk.carried).float()

    return predict


def faithfulness(predict: Predict, x: Tensor, maps: Tensor, targets: Tensor, seed: int = 0) -> Faithfulness:
    """All three measures of a batch of maps."""
    ranks = saliency_ranks(maps, (x.shape[2], x.shape[3]), seed)
    return Faithfulness(
        insertion(predict, x, ranks, targets), deletion(predict, x, ranks, targets), road(predict, x, ranks, targets)
    )


def saliency_ranks(maps: Tensor, size: tuple[int, int], seed: int = 0) -> Tensor:
    """The rank (N, H, W) of every pixel, 0 for the most salient, of maps enlarged bilinearly to `size`.

    Ties (a map is zero over wide areas) are ordered at random, the same for every map: no corner is preferred.
    """
    enlarged = F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False).flatten(1)
    order = torch.randperm(enlarged.shape[1], generator=torch.Generator().manual_seed(seed)).to(maps.device)
    sorted_pixels = order[enlarged[:, order].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.empty_like(sorted_pixels)
    places = torch.arange(enlarged.shape[1], device=maps.device).expand_as(ranks)
    return ranks.scatter_(1, sorted_pixels, places).view(-1, *size)


def deletion(predict: Predict, x: Tensor, ranks: Tensor, targets: Tensor, steps: int = STEPS) -> Tensor:
    """Area under the class probability while the most salient pixels give way to the image's mean, (N,) in [0, 1].

    RISE (Petsiuk et al., arXiv 1806.07421), section 4: the steeper the fall, the better the map.
    """
    mean = x.mean((2, 3), keepdim=True)
    return _area_under_curve(predict, x, mean.expand_as(x), ranks, targets, steps)


def insertion(predict: Predict, x: Tensor, ranks: Tensor, targets: Tensor, steps: int = STEPS) -> Tensor:
    """Area under the class probability while the most salient pixels of a blurred image become sharp, (N,).

    RISE, section 4. The blur here is as wide as an eighth of the image: with a narrower one the class of a radiograph
    is plain before anything was inserted.
    """
    return _area_under_curve(predict, blurred(x), x, ranks, targets, steps)


def road(predict: Predict, x: Tensor, ranks: Tensor, targets: Tensor, removed: Sequence[float] = REMOVED) -> Tensor:
    """ROAD: mean of (probability after removing the least salient − after removing the most salient) / 2, (N,).

    Rong et al., arXiv 2202.00449; removed pixels are imputed linearly from their neighbours with a little noise, so
    that neither a mask's edge nor its shape gives the class away. Positive: the map is better than chance.
    """
    total = ranks[0].numel()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device) * NOISE
    gained = torch.zeros(len(x), device=x.device)
    for share in removed:
        count = round(share * total)
        for mask, sign in ((ranks < count, -1), (ranks >= total - count, 1)):
            imputed = impute(x, mask) + noise * mask[:, None]
            gained += sign * _probability(predict, imputed, targets) / 2
    return gained / len(removed)


def impute(x: Tensor, mask: Tensor, tolerance: float = 2e-3) -> Tensor:
    """Fill the pixels where `mask` (N, H, W) is true so that each is the weighted mean of its eight neighbours.

    ROAD's linear imputation: weight 1/6 for direct and 1/12 for diagonal neighbours, those outside the image left
    out. The system is symmetric and positive definite: conjugate gradients solve it for all images at once, from a
    coarse-to-fine guess, until the residual is below `tolerance` of the guess's. An image without any known pixel
    becomes its own mean.
    """
    hole = mask[:, None].to(x.dtype)
    weights = _neighbours(torch.ones_like(hole[:1])) * hole
    mean = x.mean((2, 3), keepdim=True)
    centred = (x - mean) * (1 - hole)  # a hole as large as the image is then filled with its mean
    solution = _filled(centred, 1 - hole)
    residual = (_neighbours(solution) - weights * solution) * hole
    direction = residual.clone()
    energy = residual.square().sum((2, 3), keepdim=True)
    goal = energy.amax() * tolerance**2
    for _ in range(4 * max(x.shape[2:])):
        if bool((energy <= goal).all()):
            break
        image = weights * direction - _neighbours(direction) * hole
        step = energy / (direction * image).sum((2, 3), keepdim=True).clamp_min(1e-20)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        before, energy = energy, residual.square().sum((2, 3), keepdim=True)
        direction.mul_(energy / before.clamp_min(1e-20)).add_(residual)
    return torch.where(mask[:, None], solution + mean, x)


def _neighbours(x: Tensor) -> Tensor:
    """The weighted sum of each pixel's neighbours: (1 2 1)ᵀ(1 2 1) / 12 without its centre."""
    across = 2 * x
    across[..., 1:] += x[..., :-1]
    across[..., :-1] += x[..., 1:]
    total = 2 * across
    total[..., 1:, :] += across[..., :-1, :]
    total[..., :-1, :] += across[..., 1:, :]
    return total.sub_(x, alpha=4).div_(12)


def _filled(x: Tensor, known: Tensor) -> Tensor:
    """Unknown pixels filled from ever coarser means of the known ones; 0 where nothing is known at all."""
    if min(x.shape[2:]) < 2:
        return x / known.clamp_min(1e-6)
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(x * known, 2, ceil_mode=True) / weight.clamp_min(1e-6)
    coarse = _filled(mean, (weight > 0).to(x.dtype))
    finer = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
    return torch.lerp(finer, x, known)


def blurred(x: Tensor) -> Tensor:
    """Images under a Gaussian whose σ is an eighth of their longer side, edges repeated."""
    sigma = BLUR * max(x.shape[2:])
    for axis in (2, 3):
        radius = min(math.ceil(3 * sigma), x.shape[axis] - 1)
        offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = (kernel / kernel.sum()).view(1, 1, *(-1, 1) if axis == 2 else (1, -1))
        n, c, *size = x.shape
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = F.pad(x.reshape(n * c, 1, *size), padding, mode="replicate")
        x = F.conv2d(padded, kernel).view(n, c, *size)
    return x


def randomisation(
    network: nn.Module, attention_layer: str, x: Tensor, targets: Tensor, methods: Sequence[str], seed: int = 0
) -> dict[str, tuple[Sanity, ...]]:
    """Cascading parameter randomisation (Adebayo et al., arXiv 1810.03292, section 3.1), by method.

    Layers get new random parameters from the head towards the input; each stage's maps are compared with the trained
    network's. A map that stays the same does not show what was learned. `network` itself is not changed.
    """
    before = {m: _explained(SplitNetwork(network, attention_layer), x, m, targets) for m in methods}
    found: dict[str, list[Sanity]] = {m: [] for m in methods}
    for stage, altered in track(randomised(network, seed), "randomising parameters", total=len(STAGES)):
        split = SplitNetwork(altered, attention_layer)
        for method in methods:
            found[method].append(_compare(stage, before[method], _explained(split, x, method, targets)))
    return {method: tuple(stages) for method, stages in found.items()}


def randomised(network: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Each stage's name and a copy of the network with that share of its layers, counted from the end, made anew."""
    altered = copy.deepcopy(network)
    layers = [m for m in altered.modules() if callable(getattr(m, "reset_parameters", None)) and not list(m.children())]
    done = 0
    for stage, share in STAGES:
        upto = 1 + round(share * (len(layers) - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the layers' own initialisation draws from the global generator
            for layer in layers[::-1][done:upto]:
                device = next((p.device for p in layer.parameters()), torch.device("cpu"))
                layer.cpu().reset_parameters()  # type: ignore[operator]
                layer.to(device)
        done = max(done, upto)
        yield stage, altered.eval()


def spearman(a: Tensor, r: Tensor) -> Tensor:
    """Spearman rank correlation of maps (N, h, w), ties given their mean rank; 0 when one map is constant."""
    return pearson(_mean_ranks(a), _mean_ranks(r))


def _mean_ranks(maps: Tensor) -> Tensor:
    return torch.from_numpy(rankdata(maps.flatten(1).cpu().numpy(), axis=1)).to(maps.device)


def _explained(network: SplitNetwork, x: Tensor, method: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    explanation = explain(network, x, method, targets)
    return explanation.maps, explanation.degenerate


def _compare(stage: str, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Sanity:
    usable = ~(before[1] | after[1])
    a, r = after[0][usable], before[0][usable]
    if len(a) == 0:
        return Sanity(stage, math.nan, math.nan, math.nan, 0)
    return Sanity(
        stage, float(pearson(a, r).mean()), float(spearman(a, r).mean()), float(ssim(a, r).mean()), int(usable.sum())
    )


def _area_under_curve(
    predict: Predict, start: Tensor, end: Tensor, ranks: Tensor, targets: Tensor, steps: int
) -> Tensor:
    """Trapezoidal area, over the share of pixels in [0, 1], while pixels change from `start` to `end` by rank."""
    total = ranks[0].numel()
    curve = []
    for step in range(steps + 1):
        changed = (ranks < round(step * total / steps))[:, None]
        curve.append(_probability(predict, torch.where(changed, end, start), targets))
    return torch.trapezoid(torch.stack(curve), dx=1 / steps, dim=0)


def _probability(predict: Predict, x: Tensor, targets: Tensor) -> Tensor:
    return predict(x).softmax(1).gather(1, targets[:, None])[:, 0]

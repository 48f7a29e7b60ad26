"""Eight threads share one network: every map right, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn

from dicom_gam.bundle.architectures import compact_resnet
from dicom_gam.core.attention import explain
from dicom_gam.core.network import SplitNetwork
from tests.core.networks import MlpHead, images, seeded

pytestmark = pytest.mark.requirement("VER-02")

THREADS, MAPS = 8, 200
METHODS = ("hirescam", "gradcam", "cfcam", "shapleycam", "ablationcam", "fmgcam", "eigencam", "layercam")
NETWORKS = {
    "closed form": (lambda: compact_resnet(3, (4, 4, 8), 1), "layer3", ["stem"]),
    "autograd": (MlpHead, "body", ["stem"]),
}


def hooks(network: nn.Module) -> Iterator[object]:
    """Every hook on every module, of whatever kind, and those that PyTorch would call for all modules."""
    for module in network.modules():
        for name, registered in vars(module).items():
            if name.endswith("_hooks"):
                yield from registered
    for name, registered in vars(torch.nn.modules.module).items():
        if name.startswith("_global_") and name.endswith("_hooks"):
            yield from registered


def maps_in_order(split: SplitNetwork, pictures: Tensor, order: list[int]) -> dict[int, Tensor]:
    return {i: explain(split, pictures[i : i + 1], METHODS[i % len(METHODS)]).maps for i in order}


@pytest.mark.parametrize("path", NETWORKS)
def test_eight_threads_of_200_maps_get_what_one_thread_gets_and_leave_the_network_as_it_was(path: str) -> None:
    build, layer, early = NETWORKS[path]
    network = seeded(build)
    split = SplitNetwork(network, layer, early)
    assert (split.linear_head is not None) == (path == "closed form")
    pictures = images(MAPS, 16, channels=1).float()
    parameters = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = maps_in_order(split, pictures, list(range(MAPS)))
    together = Barrier(THREADS)

    def work(thread: int) -> dict[int, Tensor]:
        together.wait()
        return maps_in_order(split, pictures, [(i + thread * MAPS // THREADS) % MAPS for i in range(MAPS)])

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(work, range(THREADS)))
    assert sum(len(maps) for maps in found) == THREADS * MAPS
    for maps in found:
        for i, one in maps.items():
            torch.testing.assert_close(one, expected[i], atol=1e-6, rtol=0)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert list(hooks(network)) == []
    assert all(torch.equal(parameters[name], tensor) for name, tensor in network.state_dict().items())


def test_hooks_are_found_where_there_are_some() -> None:
    network = seeded(MlpHead)
    handle = network.body.register_forward_hook(lambda *_: None)
    assert len(list(hooks(network))) == 1
    handle.remove()

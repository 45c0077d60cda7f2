"""Faster training steps: forward, loss and backward captured as one CUDA graph, or the forward compiled."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from prosma_core.config.training import TrainingConfig
from prosma_core.errors import TrainingError
from prosma_core.inference.device import memory_ended
from prosma_core.model.unet import UNet

WARM_UP = 3
"""Steps before the graph is captured: libraries choose their algorithms in them."""

BEFORE_REPLAY = WARM_UP + 1
"""Steps before one takes as long as all later ones: the last of these captures the graph."""

Gradients = Callable[[Tensor, Tensor], Tensor]

_LOG = logging.getLogger(__name__)


class Graphed:
    """A function that is replayed as a CUDA graph from the fourth call on.

    Small networks gain most: their kernels end sooner than Python launches the next ones. Where the function cannot
    be captured, it is called as it is, and that is logged once.

    Parameters
    ----------
    gradients : callable
        Of images and labels, on a GPU and of the same shapes in every call; leaves gradients in the parameters, where
        it finds none, and returns the loss. It must not wait for the device. Exchanges with other processes are
        captured with it; whichever of them cannot capture it takes part in the exchanges even so.
    """

    def __init__(self, gradients: Gradients) -> None:
        self._gradients = gradients
        self._calls = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss; its tensor, and the gradients', are written again by the next call."""
        if self._calls == WARM_UP and self._graph is None and not self._failed:
            self._capture(images, labels)
        if self._graph is None:
            return self._aside(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._loss

    def release(self) -> None:
        """Give the graph's memory back, the gradients' too; the next call captures it again."""
        if self._graph is not None:
            self._graph = None
            del self._images, self._labels, self._loss

    def _aside(self, images: Tensor, labels: Tensor) -> Tensor:
        """The function on the stream that it is captured on."""
        self._calls += 1
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._gradients(images, labels)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Capture the function, where that is possible; nothing is computed."""
        self._images, self._labels = images.clone(), labels.clone()
        graph, random = torch.cuda.CUDAGraph(), torch.cuda.default_generators[images.device.index]
        pool = torch.cuda.graph_pool_handle()
        numbers, stream = random.clone_state(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                self._loss = self._gradients(self._images, self._labels)
        except (RuntimeError, TrainingError) as error:  # the latter where the exchange cannot be captured
            random.graphsafe_set_state(numbers)  # else it goes on waiting for the capture's end
            torch.cuda.set_stream(stream)  # which the end of a capture that failed leaves as it was within
            _end_allocations(images.device, pool)
            if memory_ended(error):  # a graph takes more than the step by itself
                del graph
                torch.cuda.empty_cache()
            _LOG.warning("The training step cannot be captured as a CUDA graph, and is slower without: %s", error)
            self._failed = True
        else:
            self._graph = graph


def _end_allocations(device: torch.device, pool: tuple[int, int]) -> None:
    """End what a capture that failed leaves open in torch: until then later graphs do not give their memory back."""
    with contextlib.suppress(RuntimeError):  # where the capture itself was sound, its end has done it
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)


def graphed(gradients: Gradients, config: TrainingConfig, device: torch.device) -> Gradients:
    """The function, as a CUDA graph where that is wanted, and the device has such."""
    return Graphed(gradients) if config.graph and device.type == "cuda" else gradients


def compiled(model: UNet) -> Callable[[Tensor], list[Tensor]]:
    """`UNet.forward_deep` of a model, compiled at its first call, which takes a minute or more.

    The call raises `TrainingError` where torch cannot compile, such as on a GPU without Triton.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    fast = torch.compile(model.forward_deep, dynamic=False)

    def forward(images: Tensor) -> list[Tensor]:
        try:
            return fast(images)
        except TorchDynamoException as error:
            why = " ".join(str(error).split("\n")[:2])
            msg = f"The network cannot be compiled here ({why}). Train with training.compile set to false."
            raise TrainingError(msg) from error

    return forward

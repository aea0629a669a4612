"""Launching again at once what a GPU has done before (CUDA graphs).

A small model's update is hundreds of short kernels, and launching them one by one from Python takes longer than they
run. A captured graph launches them all together. It does again exactly what was captured: the same kernels, on the same
places in memory, with the same numbers wherever Python's numbers went in. So what changes from call to call has to be
in tensors that stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

#: Calls before the capture, which compile, allocate and choose kernels.
WARM_UP_CALLS = 3


class Replayed:
    """A piece of work on a GPU that is captured after some calls and replayed from then on.

    It is captured on a stream of its own. PyTorch keeps the workspace of matrix products by stream, graphs that were
    captured on one share it, and it goes with the first of them (pytorch/pytorch#193402). For the same reason
    ``torch.compile(mode="reduce-overhead")`` must not be used in the same process: it frees the workspaces of all.

    Args:
        work: Reads and writes tensors that stay where they are, and does nothing in Python that counts.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work, self._calls = work, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream()

    def __call__(self) -> None:
        self._calls += 1
        if self._calls <= WARM_UP_CALLS:
            self._work()
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._work()  # nothing is computed yet
        self._graph.replay()

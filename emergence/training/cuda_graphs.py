"""Launching together what a GPU did before one by one (CUDA graphs).

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

    It is captured on a stream of its own. PyTorch keeps one workspace of matrix products for a stream. Graphs that were
    captured on the same stream share it, and destroying any of them frees it (pytorch/pytorch#193402). Nor may
    ``torch.compile(mode="reduce-overhead")`` be used in the same process, which frees the workspaces of all streams.
    What is allocated during the capture is kept for the graph alone.

    The memory goes with this object, which therefore does not hold the work: whoever has both would hold on to itself.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream()

    def __call__(self, work: Callable[[], None]) -> None:
        """Do the work, in one way or the other.

        Args:
            work: The same every time. It reads and writes tensors that stay where they are, and does not wait for the
                GPU. What it does in Python happens at the first calls and at the capture, but not when it is replayed.

        Raises:
            RuntimeError: The work does what cannot be captured, at the call after the last of :data:`WARM_UP_CALLS`.
        """
        self._calls += 1
        if self._calls <= WARM_UP_CALLS:
            work()
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                work()  # nothing is computed yet
            self._graph = graph
        self._graph.replay()

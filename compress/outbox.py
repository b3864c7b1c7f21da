"""The way of finished tensors from the device into their files, beside the work on the next ones.

On CUDA a tensor is copied on a stream of its own into pinned host memory, unless it lies in the host's, and written by
a thread; on a CPU it is written at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

# Pinned memory that copies under way may take, and the threads that write them.
ROOM_BYTES, NUM_THREADS = 1 << 32, 4


class Destination(Protocol):
    """What takes tensors on the CPU by name, such as a TensorWriter."""

    def write(self, name: str, tensor: Tensor) -> None: ...


class Outbox:
    """Writes and what is to be done after them, in order. As a context it ends when all is done, or, on an error, when
    the writes that were begun are.
    """

    def __init__(self, device: torch.device) -> None:
        stream: Any = torch.cuda.Stream
        self._stream = stream(device) if device.type == "cuda" else None
        self._threads = ThreadPoolExecutor(NUM_THREADS)
        self._pending: deque[tuple[int, Future[None] | Callable[[], None]]] = deque()
        self._num_bytes = 0

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._threads.shutdown(cancel_futures=True)

    def write(self, destination: Destination, name: str, tensor: Tensor) -> None:
        """destination.write(name, tensor), now or later; the tensor must not be changed any more. Raises what a write
        that was given earlier raised.
        """
        if self._stream is None:
            destination.write(name, tensor)
            return
        if not tensor.is_cuda:
            self._pending.append((0, self._threads.submit(destination.write, name, tensor)))
            return
        num_bytes = tensor.numel() * tensor.element_size()
        while self._pending and self._num_bytes + num_bytes > ROOM_BYTES:
            self._settle()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)
        copied = self._stream.record_event()

        def write() -> None:
            copied.synchronize()
            destination.write(name, host)

        self._num_bytes += num_bytes
        self._pending.append((num_bytes, self._threads.submit(write)))

    def then(self, action: Callable[[], None]) -> None:
        """action(), once everything given before is written; at the latest in flush()."""
        self._pending.append((0, action))
        while self._pending and self._is_done(self._pending[0][1]):
            self._settle()

    def flush(self) -> None:
        """End when everything is written and done."""
        while self._pending:
            self._settle()

    def _settle(self) -> None:
        num_bytes, item = self._pending.popleft()
        self._num_bytes -= num_bytes
        if isinstance(item, Future):
            item.result()
        else:
            item()

    @staticmethod
    def _is_done(item: Future[None] | Callable[[], None]) -> bool:
        return not isinstance(item, Future) or item.done()

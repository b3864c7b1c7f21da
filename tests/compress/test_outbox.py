"""Finished tensors on their way to the files."""

import pytest
import torch

from compress.outbox import Outbox

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Files:
    """Notes what is written, in order, and fails for one name."""

    def __init__(self) -> None:
        self.written: dict[str, torch.Tensor] = {}
        self.notes: list[tuple[str, int]] = []

    def write(self, name: str, tensor: torch.Tensor) -> None:
        if name == "full disk":
            raise OSError(name)
        assert tensor.device.type == "cpu"
        self.written[name] = tensor


def device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(name)


@pytest.mark.parametrize("name", DEVICES)
def test_all_is_written_before_what_comes_then(name: str) -> None:
    files, place = Files(), device(name)
    with Outbox(place) as outbox:
        for layer in range(3):
            for index in range(20):
                number = 100 * layer + index
                outbox.write(files, str(number), torch.full((64, 64), number, device=place))
            outbox.then(lambda layer=layer: files.notes.append((str(layer), len(files.written))))
    assert [layer for layer, _ in files.notes] == ["0", "1", "2"]
    assert all(count >= 20 * (int(layer) + 1) for layer, count in files.notes)
    assert len(files.written) == 60
    assert all((tensor == int(number)).all() for number, tensor in files.written.items())


@pytest.mark.parametrize("name", DEVICES)
def test_a_failed_write_is_an_error_and_nothing_comes_then(name: str) -> None:
    files, place = Files(), device(name)
    with pytest.raises(OSError, match="full disk"), Outbox(place) as outbox:
        outbox.write(files, "full disk", torch.ones(2, device=place))
        outbox.then(lambda: files.notes.append(("never", 0)))
    assert not files.notes

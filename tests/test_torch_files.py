"""Optimizers of torch's tensors, saved to files and loaded: they go on with the same bytes."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
from cases import assert_same

torch: Any = pytest.importorskip("torch")
import fusedstep  # noqa: E402
import fusedstep.torch as ft  # noqa: E402

fs: Any = fusedstep
kinds = pytest.mark.parametrize("name", ["run.safetensors", "run.npz"])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"state_format": "8bit", "min_quantized_size": 0},
    {"state_format": "bfloat16"},
    {"master": "split", "ema_decay": 0.9},
    {"master": "float32"},
]


def model(dtype: Any) -> Any:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 3)).to(dtype)


def step(net: Any, optimizer: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in net.parameters():
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
    optimizer.step()


@kinds
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "hypers"), [("AdamW", {}), ("SGD", {"momentum": 0.9}), ("NAdam", {})])
def test_continued_is_uninterrupted(
    kind: str, hypers: dict[str, Any], options: dict[str, Any], named: bool, name: str, tmp_path: pathlib.Path
) -> None:
    dtype = torch.bfloat16 if "master" in options else torch.float32
    nets = [model(dtype) for _ in range(2)]
    one, other = (
        getattr(ft, kind)(net.named_parameters() if named else net.parameters(), lr=lr, **hypers, **options)
        for net, lr in zip(nets, (torch.tensor(0.01), 0.5), strict=True)
    )
    for seed in range(3):
        step(nets[0], one, seed)
    assert one.save(tmp_path / name) is None
    nets[1].load_state_dict(nets[0].state_dict())
    other.load(tmp_path / name)
    assert isinstance(other.param_groups[0]["lr"], torch.Tensor)
    for seed in range(3, 5):
        for net, optimizer in zip(nets, (one, other), strict=True):
            step(net, optimizer, seed)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    if name.endswith("npz"):
        with np.load(tmp_path / name) as file:
            first = '["0.weight"]' if named else "[0]"
            assert any(key.startswith(f"optimizer{first}[") for key in file.files)


def test_a_snapshot_and_errors(tmp_path: pathlib.Path) -> None:
    net, path = model(torch.float32), tmp_path / "run.npz"
    optimizer: Any = ft.Adam(net.parameters())
    step(net, optimizer, 0)
    before = {i: state["exp_avg"].clone() for i, state in optimizer.state_dict()["state"].items()}
    saving = optimizer.save(path, background=True)
    step(net, optimizer, 1)
    assert saving.result() == str(path)
    optimizer.load(path)
    for i, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["exp_avg"], before[i])
    saved = {i: copied(state) for i, state in optimizer.state_dict()["state"].items()}
    for other in (ft.SGD(net.parameters(), momentum=0.9), ft.Adam(list(net.parameters())[:2])):
        with pytest.raises(ValueError, match=r"run\.npz: "):
            other.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"run\.npz: .*cut off"):
        optimizer.load(path)
    for i, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(state[key], saved[i][key]) for key in state)
    with pytest.raises(TypeError, match=r"those of fusedstep\.torch have save\(\) and load\(\) of their own"):
        fs.save(path, optimizer=optimizer)


def copied(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() for key, value in state.items()}


def test_between_arrays_and_tensors(tmp_path: pathlib.Path) -> None:
    """A file of either kind of optimizer loads into the other, as state dicts do."""
    array = np.linspace(-1, 1, 700, dtype=np.float32)
    tensor = torch.nn.Parameter(torch.from_numpy(array.copy()))
    numpy, torchs = fs.Adam([array]), ft.Adam([tensor])
    numpy.step([np.ones_like(array)])
    numpy.save(tmp_path / "run.safetensors")
    torchs.load(tmp_path / "run.safetensors")
    assert_same(torchs.state[tensor]["exp_avg"].numpy(), numpy.state[0]["exp_avg"])
    torchs.save(tmp_path / "run.safetensors")
    again = fs.Adam([array.copy()])
    again.load(tmp_path / "run.safetensors")
    assert_same(dict(again.state[0]), dict(numpy.state[0]))

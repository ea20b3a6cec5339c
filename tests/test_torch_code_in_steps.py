"""Code of tensor subclasses, keys and attributes that runs during a step, and tensors that are not what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

N = 300_000  # memory that goes back to the system when it is freed


def parameter(n: int = N, dtype: Any = torch.float32) -> Any:
    param = torch.nn.Parameter(torch.ones(n, dtype=dtype))
    param.grad = torch.ones(n, dtype=dtype)
    return param


class Computed(torch.nn.Parameter):  # type: ignore[misc,name-defined]
    """Its gradient is what a function returns."""

    call: Callable[[], Any]

    @property
    def grad(self) -> Any:
        return self.call()

    @grad.setter
    def grad(self, value: Any) -> None:
        pass


class Overridden(torch.Tensor):  # type: ignore[misc,name-defined]
    """Calls a function before every operation."""

    call: Callable[[], Any] = staticmethod(lambda: None)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Overridden.call()
        return super().__torch_function__(func, types, args, kwargs or {})


def freed(tensor: Any) -> None:
    tensor.untyped_storage().resize_(0)


def refused_and_unchanged(optimizer: Any, others: list[Any]) -> None:
    before = [param.detach().clone() for param in others]
    with pytest.raises(ValueError, match="freed or resized"):
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(others, before, strict=True))


@pytest.mark.parametrize("which", ["gradient", "parameter", "state"])
def test_a_computed_gradient_frees_what_was_looked_at(which: str) -> None:
    first, second = parameter(), Computed(torch.ones(4))
    armed = False

    def call() -> Any:
        if armed:
            there = {"gradient": first.grad, "parameter": first}
            freed(there[which] if which in there else optimizer.state[first]["exp_avg"])
        return torch.ones(4)

    second.call = call
    optimizer = ft.Adam([first, second])
    optimizer.step()
    armed = True
    if which == "state":
        with pytest.raises((ValueError, RuntimeError)):
            optimizer.step()
    else:
        refused_and_unchanged(optimizer, [second])


@pytest.mark.parametrize("which", ["gradient", "parameter"])
def test_an_overridden_gradient_frees_what_was_looked_at(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = parameter(), parameter(4)
    optimizer = ft.SGD([first, second], momentum=0.5)
    second.grad = torch.ones(4).as_subclass(Overridden)
    optimizer.step()
    second.grad = torch.full((4,), 2.0).as_subclass(Overridden)
    monkeypatch.setattr(Overridden, "call", staticmethod(lambda: freed(first.grad if which == "gradient" else first)))
    refused_and_unchanged(optimizer, [])


def test_a_key_of_a_state_frees_a_gradient() -> None:
    first, second = parameter(), parameter(4)
    armed = False

    class Key:
        def __hash__(self) -> int:
            return hash("exp_avg")

        def __eq__(self, other: object) -> bool:
            if armed:
                freed(first.grad)
            return False

    optimizer = ft.Adam([first, second])
    optimizer.step()
    state = optimizer.state[second]
    kept = dict(state)
    state.clear()
    state[Key()] = 1
    state.update(kept)
    optimizer.step()
    armed = True
    refused_and_unchanged(optimizer, [second])


# ---- another tensor at the same address ----


def test_a_negative_gradient_where_a_plain_one_was() -> None:
    base = torch.ones(4)
    for _ in range(20):  # until the new tensor object has the address of the old one
        param = torch.nn.Parameter(torch.zeros(4))
        optimizer = ft.SGD([param], lr=1.0)
        param.grad = base[:]
        optimizer.step()
        param.grad = None
        param.grad = base._neg_view()
        optimizer.step()
        assert (param == 0).all()


@pytest.mark.parametrize("which", ["gradient", "parameter", "state"])
def test_data_replaced_by_its_conjugate(which: str) -> None:
    param, twin = (parameter(4, torch.complex64) for _ in range(2))
    optimizers = ft.Adam([param], lr=0.1), torch.optim.Adam([twin], lr=0.1)
    for p, optimizer in zip((param, twin), optimizers, strict=True):
        p.grad = torch.full((4,), 1 + 2j)
        optimizer.step()
        there = {"gradient": p.grad, "parameter": p, "state": optimizer.state[p]["exp_avg"]}[which]
        if p is param:
            there.data = there.data.conj()
        else:
            there.data = there.data.conj().resolve_conj()
        for _ in range(2):
            optimizer.step()
    torch.testing.assert_close(param.resolve_conj(), twin)


# ---- states that are cleared while the model is made ----


class Hashed(torch.nn.Parameter):  # type: ignore[misc,name-defined]
    """Calls a function whenever it is looked up in a dict."""

    call: Callable[[], Any] = staticmethod(lambda: None)

    def __hash__(self) -> int:
        self.call()
        return id(self)


@pytest.mark.parametrize("taken_out", ["all", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize(
    "options", [{}, {"state_format": "8bit", "min_quantized_size": 0}, {"ema_decay": 0.5}], ids=repr
)
def test_states_taken_out_while_they_are_looked_up(options: dict[str, Any], taken_out: str) -> None:
    """Stepped with new states, or a documented error; never stepped without them."""
    for number in range(1, 25):  # of the look-up that takes them out
        param: Any = Hashed(torch.ones(300))
        param.grad = torch.ones(300)
        optimizer = ft.Adam([param], lr=0.1, **options)
        lookups = 0

        def call(number: int = number, optimizer: Any = optimizer) -> None:
            nonlocal lookups
            lookups += 1
            if lookups == number:
                states = optimizer.__dict__["state"]
                if taken_out == "all":
                    states.clear()
                for state in list(states.values()):
                    state.pop(taken_out, None)

        param.call = call
        for _ in range(2):
            try:
                optimizer.step()
            except (RuntimeError, KeyError):
                continue
        param.call = lambda: None
        optimizer.step()
        assert bool(((param < 1) & (param > 0)).all())


class Clearing(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc,name-defined]
    """Sets `zero_grads` in the first operation after the native step."""

    def __init__(self, optimizer: Any, param: Any, value: bool) -> None:
        super().__init__()
        self.optimizer, self.param, self.value = optimizer, param, value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C._DisableTorchDispatch():
            stepped = self.param.detach().numpy()[0] != 1
        if stepped:
            self.optimizer.zero_grads = self.value
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("before", [False, True])
def test_zero_grads_set_within_a_step_holds_for_all_gradients_alike(before: bool) -> None:
    plain, table, gaps = parameter(4), parameter(4), parameter(4)
    table.grad = torch.ones(4).to_sparse()
    gaps.grad = torch.ones(8)[::2]
    optimizer = ft.SGD([plain, table, gaps], lr=0.5, zero_grads=before)
    with Clearing(optimizer, plain, not before):
        optimizer.step()
    assert optimizer.zero_grads != before  # it was set
    cleared = [not grad.to_dense().any() for grad in (plain.grad, table.grad, gaps.grad)]
    assert cleared == [before] * 3
    assert all((param == 0.5).all() for param in (plain, table, gaps))

"""`CPUOffload` is the optimizer it is made of, in all that a training script does with one."""

from __future__ import annotations

import collections
import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")
from torch_training import assert_same, network, train  # noqa: E402

BOTH_WAYS = pytest.mark.parametrize("free", [False, True], ids=["gradients kept", "gradients freed"])


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offload_is_the_step_on_the_cpu(free: bool, dtype: Any) -> None:
    mine, plain = network(dtype), network(dtype)
    offload = ft.CPUOffload(ft.AdamW, mine.parameters(), free_gradients=free, lr=0.01, max_grad_norm=0.1)
    master = None if dtype == torch.float32 else "float32"
    direct = ft.AdamW(plain.parameters(), lr=0.01, max_grad_norm=0.1, master=master)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 3, 0.5) for o in (offload, direct)]
    assert train(mine, offload, 8, schedulers[:1]) == train(plain, direct, 8, schedulers[1:])
    assert_same(mine, plain, 0, 0)
    assert offload.grad_norm == direct.grad_norm
    if free:
        assert all(p.grad is None for p in mine.parameters())
    torch.testing.assert_close(offload.state_dict()["state"], direct.state_dict()["state"])


def test_offload_with_clipping_by_torch_and_accumulation() -> None:
    mine, theirs = network(), network()
    offload = ft.CPUOffload(ft.SGD, mine.parameters(), lr=0.1)
    assert train(mine, offload, 5, clip=0.05) == pytest.approx(
        train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1), 5, clip=0.05), rel=1e-5
    )
    for free in (False, True):
        model = network()
        optimizer = ft.CPUOffload(ft.SGD, model.parameters(), lr=0.1, free_gradients=free)
        reference = network()
        other = torch.optim.SGD(reference.parameters(), lr=0.1)
        for m, o in ((model, optimizer), (reference, other)):
            o.zero_grad()
            for value in (0.5, 1.0, 2.0):
                m(torch.full((3, 6), value)).square().mean().backward()
            o.step()
        assert_same(model, reference)


def test_offload_takes_up_a_loaded_model() -> None:
    model = network(torch.bfloat16)
    optimizer = ft.CPUOffload(ft.AdamW, model.parameters(), lr=0.01)
    saved = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    expected = train(model, optimizer, 4)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert train(model, optimizer, 4) == expected


def test_it_is_an_instance_of_both_classes() -> None:
    optimizer = ft.CPUOffload(ft.AdamW, network().parameters(), lr=0.5)
    assert isinstance(optimizer, ft.CPUOffload) and isinstance(optimizer, torch.optim.AdamW)
    assert type(optimizer) is type(ft.CPUOffload(ft.AdamW, network().parameters()))
    assert optimizer.defaults["lr"] == 0.5
    assert optimizer.defaults["master"] == "float32"


@pytest.mark.parametrize("wrong", [torch.optim.Adam, ft.FusedOptimizer, ft.CPUOffload, "AdamW", None])
def test_what_it_cannot_be_made_of(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"optimizer_class: got .*, needs an optimizer class of fusedstep\.torch"):
        ft.CPUOffload(wrong, network().parameters())


def test_a_gradient_scaler_unscales_what_is_stepped() -> None:
    """The unscaling writes to gradients without a trace in their version."""
    results = []
    for make in (torch.optim.SGD, lambda params, **options: ft.CPUOffload(ft.SGD, params, **options)):
        model = network()
        optimizer = make(model.parameters(), lr=0.05, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for step in range(6):
            optimizer.zero_grad()
            loss = model(torch.full((4, 6), 0.1 * step)).square().mean() * (float("inf") if step == 3 else 1.0)
            scaler.scale(loss).backward()
            if step == 4:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        results.append(model)
    assert_same(results[1], results[0])


def test_a_scaler_says_that_it_saw_no_gradients_that_were_freed() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = ft.CPUOffload(ft.SGD, [p], lr=1.0, free_gradients=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(p.sum()).backward()
    with pytest.raises(AssertionError, match="No inf checks were recorded"):
        scaler.step(optimizer)


@pytest.mark.parametrize(
    "change",
    [
        lambda grad: grad.data.clamp_(-1, 1),
        lambda grad: grad.detach().numpy().fill(1.0),
        lambda grad: setattr(grad, "data", torch.ones(3)),
        lambda grad: grad.fill_(1.0),
    ],
    ids=["in place", "through an array", "replaced", "as torch does"],
)
@pytest.mark.parametrize("times", [1, 2])
def test_gradients_changed_after_backward(change: Any, times: int) -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = ft.CPUOffload(ft.SGD, [p], lr=1.0)
    for _ in range(times):
        optimizer.zero_grad()
        (10 * p.sum()).backward()
        change(p.grad)
        optimizer.step()
    assert p.tolist() == [-times] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("master", ["float32", "split", None])
@pytest.mark.parametrize(
    "change",
    [lambda p: p.data.fill_(5.0), lambda p: setattr(p, "data", torch.full_like(p, 5.0))],
    ids=["in place", "replaced"],
)
@BOTH_WAYS
def test_weights_changed_through_data(change: Any, dtype: Any, master: Any, free: bool) -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = ft.CPUOffload(ft.SGD, [p], lr=1.0, momentum=0.5, master=master, free_gradients=free)
    p.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    change(p)
    p.sum().backward()
    optimizer.step()
    assert p.tolist() == [3.5] * 3


@pytest.mark.parametrize("how", ["clear", "assign", "entry", "pop", "in place"])
def test_states_can_be_reset(how: str) -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = ft.CPUOffload(ft.SGD, [p], lr=1.0, momentum=0.5)
    p.sum().backward()
    optimizer.step()
    if how == "clear":
        optimizer.state.clear()
    elif how == "assign":
        optimizer.state = collections.defaultdict(dict)
    elif how == "entry":
        optimizer.state[p] = {}
    elif how == "pop":
        optimizer.state.pop(p)
    else:
        optimizer.state[p]["momentum_buffer"].zero_()
    optimizer.step()
    assert p.item() == -2.0
    assert optimizer.state[p]["momentum_buffer"].item() == 1.0


def test_the_state_of_a_parameter_that_has_none() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = ft.CPUOffload(ft.SGD, [p], lr=1.0, momentum=0.5)
    assert optimizer.state[p] == {}
    p.sum().backward()
    optimizer.step()
    assert p.item() == -1.0


@pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam", "Lion", "ScheduleFreeAdamW"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@BOTH_WAYS
def test_copies_go_on_as_the_original_does(name: str, how: str, free: bool) -> None:
    model = network(torch.bfloat16)
    optimizer = ft.CPUOffload(getattr(ft, name), model.parameters(), lr=1e-2, free_gradients=free, max_grad_norm=0.5)
    train(model, optimizer, 3)
    if how == "deepcopy":
        copied = copy.deepcopy((model, optimizer))
    elif how == "pickle":
        copied = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        file = io.BytesIO()
        torch.save((model, optimizer), file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    assert type(copied[1]) is type(optimizer)
    assert copied[1].free_gradients == free
    expected = train(model, optimizer, 3)
    assert train(*copied, 3) == expected
    assert_same(copied[0], model, 0, 0)


@BOTH_WAYS
def test_groups_schedulers_hooks_and_closures(free: bool) -> None:
    results = []
    for offload in (False, True):
        model, extra = network(), torch.nn.Parameter(torch.ones(3))
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}]
        if offload:
            optimizer = ft.CPUOffload(ft.SGD, groups, lr=0.01, momentum=0.5, free_gradients=free)
        else:
            optimizer = ft.SGD(groups, lr=0.01, momentum=0.5)
        seen: list[str] = []
        optimizer.register_step_pre_hook(lambda *_, seen=seen: seen.append("pre"))
        optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("post"))
        optimizer.register_state_dict_post_hook(lambda *_, seen=seen: seen.append("saved"))
        train(model, optimizer, 2, [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)])
        optimizer.add_param_group({"params": [extra], "lr": 0.25})
        optimizer.param_groups[0]["lr"] = 0.125

        def closure(optimizer: Any = optimizer, extra: Any = extra) -> Any:
            optimizer.zero_grad()
            loss = extra.square().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() == 3.0
        optimizer.state_dict()
        assert seen == ["pre", "post"] * 3 + ["saved"]
        results.append((model, extra.detach().clone(), optimizer.state_dict()["state"]))
    assert_same(results[1][0], results[0][0], 0, 0)
    assert torch.equal(results[1][1], torch.full((3,), 0.5))
    torch.testing.assert_close(results[1][2], results[0][2], rtol=0, atol=0)


@BOTH_WAYS
def test_parameters_that_are_unfrozen_later(free: bool) -> None:
    results = []
    for offload in (False, True):
        model = network()
        model[0].requires_grad_(False)
        if offload:
            optimizer = ft.CPUOffload(ft.Adam, model.parameters(), lr=0.05, free_gradients=free)
        else:
            optimizer = ft.Adam(model.parameters(), lr=0.05)
        for frozen in (True, False, True):
            model[0].requires_grad_(not frozen)
            for p in model.parameters():
                p.grad = None
            train(model, optimizer, 3)
        results.append(model)
    assert_same(results[1], results[0], 0, 0)


@pytest.mark.skipif(torch.torch_version.TorchVersion(torch.__version__) < (2, 6), reason="torch 2.6 has names")
@BOTH_WAYS
def test_named_parameters(free: bool) -> None:
    model = network()
    optimizer = ft.CPUOffload(ft.AdamW, model.named_parameters(), lr=0.05, free_gradients=free)
    train(model, optimizer, 2)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == [name for name, _ in model.named_parameters()]


def test_state_dicts_of_torch_and_back() -> None:
    """Half of the steps with one, half with the other."""
    results = []
    classes = (torch.optim.AdamW, lambda params, **options: ft.CPUOffload(ft.AdamW, params, **options))
    for first, second in ((0, 0), (0, 1), (1, 0), (1, 1)):
        model = network()
        optimizer = classes[first](model.parameters(), lr=0.02)
        train(model, optimizer, 3)
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = classes[second](model.parameters(), lr=0.5)
        optimizer.load_state_dict(saved)
        train(model, optimizer, 3)
        results.append(model)
    for other in results[1:]:
        assert_same(other, results[0])


def test_layouts_and_gaps() -> None:
    base = torch.randn(8, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    for make in (
        lambda: base.clone(memory_format=torch.channels_last),
        lambda: base.clone()[:, ::2],
        lambda: base.clone().permute(3, 1, 0, 2),
    ):
        mine, plain = make().requires_grad_(), make().requires_grad_()  # type: ignore[no-untyped-call]
        optimizers = ft.CPUOffload(ft.Adam, [mine], lr=0.1), ft.Adam([plain], lr=0.1)
        for _ in range(3):
            mine.grad, plain.grad = torch.ones(mine.shape), torch.ones(mine.shape)
            for optimizer in optimizers:
                optimizer.step()
        assert torch.equal(mine, plain)


def test_a_parameter_that_changes_shape_or_dtype() -> None:
    p = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = ft.CPUOffload(ft.SGD, [p], lr=0.5)
    for data in (torch.ones(4), torch.ones(4, dtype=torch.bfloat16)):
        p.data, p.grad = data, None
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert p.tolist() == [0.5] * 4


def test_skipped_steps_and_zeroed_gradients() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ft.CPUOffload(ft.SGD, [p], lr=0.5, skip_nonfinite=True, zero_grads=True)
    p.grad = torch.tensor([1.0, float("nan"), 1.0])
    optimizer.step()
    assert optimizer.skipped_steps == 1
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.tolist() == [0.5] * 3
    assert p.grad.tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda p: setattr(p.grad, "data", torch.ones(12)), ValueError, "shape"),
        (lambda p: p.grad.untyped_storage().resize_(0), ValueError, "freed"),
        (lambda p: p.untyped_storage().resize_(8), ValueError, "freed"),
        (lambda p: setattr(p, "data", p.data.as_strided((4, 3), (0, 1))), ValueError, "share memory"),
        (lambda p: setattr(p, "grad", torch.ones(4, 3).to_sparse()), TypeError, "sparse"),
    ],
)
def test_bad_gradients_change_nothing(spoil: Any, error: type[Exception], text: str) -> None:
    params = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4, 3))]
    optimizer = ft.CPUOffload(ft.Adam, params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = [p.detach().reshape(-1)[:2].clone() for p in params], copy.deepcopy(optimizer.state_dict()["state"])
    spoil(params[1])
    with pytest.raises(error, match=text):
        optimizer.step()
    params[1].untyped_storage().resize_(4 * 12)  # torch itself reads beyond memory that was cut
    after = [p.detach().reshape(-1)[:2].clone() for p in params], optimizer.state_dict()["state"]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@BOTH_WAYS
def test_parameters_without_memory_are_named(free: bool) -> None:
    """Those of a module on meta, which torch says of that there is no accelerator."""
    model = torch.nn.Linear(2, 2, device="meta")
    optimizer = ft.CPUOffload(ft.Adam, model.parameters(), free_gradients=free)
    model(torch.ones(1, 2, device="meta")).sum().backward()
    with pytest.raises(ValueError, match=r"params\[0\]\[0\]: got a tensor on meta, needs one with memory"):
        optimizer.step()


@BOTH_WAYS
def test_an_optimizer_that_is_deleted_leaves_gradients_alone(free: bool) -> None:
    model = network()
    optimizer = ft.CPUOffload(ft.AdamW, model.parameters(), free_gradients=free)
    train(model, optimizer, 1)
    del optimizer
    model(torch.ones(1, 6)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_gradient_that_is_assigned_replaces_the_one_that_arrived() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = ft.CPUOffload(ft.SGD, [p], lr=1.0, free_gradients=True)
    (5 * p.sum()).backward()
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.tolist() == [-1.0, -1.0]


def test_arriving_gradients_do_not_each_go_over_the_groups() -> None:
    class Counted(list[Any]):
        looks = 0

        def __iter__(self) -> Iterator[Any]:
            Counted.looks += 1
            return super().__iter__()

    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(20)]
    optimizer = ft.CPUOffload(ft.SGD, params, lr=0.5, free_gradients=True)
    optimizer.param_groups[0]["params"] = Counted(params)
    torch.stack(params).sum().backward()
    assert 0 < Counted.looks < 5
    optimizer.step()
    assert all(param.tolist() == [0.5, 0.5] for param in params)

"""Parameter groups, options and attributes of the optimizers for torch, and wrappers that forward them."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")
from torch_training import network, train  # noqa: E402

TORCH = torch.torch_version.TorchVersion(torch.__version__)
NAMES = ["SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop"]


def ones(count: int = 1, size: int = 2) -> list[Any]:
    params = [torch.nn.Parameter(torch.ones(size)) for _ in range(count)]
    for p in params:
        p.grad = torch.ones(size)
    return params


def uses(optimizer: Any) -> list[Callable[[], Any]]:
    """What looks at an optimizer's groups."""
    saved = ft.SGD(ones(), lr=0.5).state_dict()
    return [
        optimizer.step,
        optimizer.metrics,
        optimizer.watch,
        optimizer.state_dict,
        functools.partial(optimizer.load_state_dict, saved),
        functools.partial(copy.deepcopy, optimizer),
    ]


# ---- entries of the user's ----


@pytest.mark.parametrize("value", [torch.ones(3), [torch.eye(3)], "x", None, {"a": 1}, lambda: 0])
@pytest.mark.parametrize("when", ["at first", "later"])
def test_a_users_own_entries_are_left_alone(value: Any, when: str) -> None:
    (p,) = ones()
    optimizer = ft.AdamW([{"params": [p], "own": value}] if when == "at first" else [p], lr=0.5)
    optimizer.param_groups[0]["own"] = value
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 2


def test_a_hyperparameter_of_several_elements() -> None:
    (p,) = ones()
    optimizer = ft.SGD([p])
    optimizer.param_groups[0]["lr"] = torch.ones(3)
    with pytest.raises(ValueError, match="one element"):
        optimizer.step()
    assert p.tolist() == [1.0, 1.0]


# ---- groups edited by hand ----


def as_a_tuple(module: Any) -> tuple[list[Any], Any]:
    params = ones()
    optimizer = module.SGD(params, lr=0.1)
    optimizer.param_groups[0]["params"] = tuple(params)
    return params, optimizer


def appended_without_a_name(module: Any) -> tuple[list[Any], Any]:
    params = ones(2)
    optimizer = module.SGD([("a", params[0])], lr=0.1)
    optimizer.param_groups[0]["params"].append(params[1])
    return params, optimizer


def taken_out_of_named_ones(module: Any) -> tuple[list[Any], Any]:
    params = ones(2)
    optimizer = module.SGD(list(zip("ab", params, strict=True)), lr=0.1)
    del optimizer.param_groups[0]["params"][1]
    return params, optimizer


def groups_of_another_optimizer(module: Any) -> tuple[list[Any], Any]:
    params = ones()
    optimizer = module.AdamW(params, lr=0.1)
    optimizer.param_groups = torch.optim.AdamW(params, lr=0.2).param_groups
    return params, optimizer


def groups_as_a_tuple(module: Any) -> tuple[list[Any], Any]:
    params = ones()
    optimizer = module.AdamW(params, lr=0.1)
    optimizer.param_groups = tuple(optimizer.param_groups)
    return params, optimizer


def a_group_appended(module: Any) -> tuple[list[Any], Any]:
    params = ones(2)
    optimizer = module.SGD(params[:1], lr=0.1)
    optimizer.param_groups.append({**torch.optim.SGD(params[1:], lr=0.2).param_groups[0]})
    return params, optimizer


EDITS = [
    as_a_tuple,
    *([appended_without_a_name, taken_out_of_named_ones] if TORCH >= (2, 6) else []),
    groups_of_another_optimizer,
    groups_as_a_tuple,
    a_group_appended,
]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("after", [0, 2])
def test_groups_edited_by_hand(edit: Any, after: int) -> None:
    results = []
    for module in (torch.optim, ft):
        params, optimizer = edit(module)
        for _ in range(1 + after):
            optimizer.step()
        optimizer.state_dict()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (b"\0\1", r"\[0\]: got int, needs a tensor"),
        ("w", r"\[0\]: got str, needs a tensor"),
        ([torch.ones(2), 3.5], r"\[1\]: got float, needs a tensor"),
        (None, "got NoneType, needs a list of tensors"),
        (7, "got int, needs a list of tensors"),
        pytest.param(iter([7]), "got list_iterator, needs a list of tensors", id="an iterator"),
        (torch.ones(2), "got Tensor, needs a list of tensors"),
    ],
    ids=repr,
)
def test_what_is_no_list_of_tensors_is_refused(params: Any, message: str) -> None:
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    optimizer = ft.SGD([param], lr=0.1)
    optimizer.step()
    before = param.detach().clone()
    optimizer.param_groups[0]["params"] = params
    message = r'^param_groups\[0\]\["params"\]' + (message if message[0] == "\\" else ": " + message)
    for use in uses(optimizer):
        with pytest.raises(TypeError, match=message):
            use()
    assert optimizer.param_groups[0]["params"] is params
    assert torch.equal(param, before)


@pytest.mark.parametrize("groups", [[None], [{}], [[]], "ab", {"params": []}], ids=repr)
def test_what_is_no_list_of_groups_is_refused(groups: Any) -> None:
    (p,) = ones()
    optimizer = ft.SGD([p], lr=0.1)
    optimizer.step()
    optimizer.param_groups = groups
    for use in uses(optimizer):
        with pytest.raises(TypeError, match=r'^param_groups\[0\]: got .*, needs a dict with an entry "params"$'):
            use()
    for bad in (None, 3):
        with pytest.raises(TypeError, match=rf"^param_groups: got {type(bad).__name__}, needs a list of dicts"):
            optimizer.param_groups = bad
    assert torch.equal(p, torch.full((2,), 0.9))


def test_options_that_are_no_numbers_are_named() -> None:
    (p,) = ones()
    optimizer = ft.SGD([p], lr=0.1)
    optimizer.step()
    for value, got in ((torch.ones(3), "a tensor of 3 elements"), (torch.ones(1, device="meta"), "a tensor on meta")):
        optimizer.param_groups[0]["lr"] = value
        for use in (optimizer.step, optimizer.metrics, optimizer.watch):
            with pytest.raises(ValueError, match=rf'^param_groups\[0\]\["lr"\]: got {got}, needs'):
                use()
        assert optimizer._watch is None
    optimizer.param_groups[0].update(lr=0.1, param_names=3)
    for use in uses(optimizer):
        with pytest.raises(TypeError, match=r'^param_groups\[0\]\["param_names"\]: got int, needs a list of names'):
            use()


def test_watching_after_a_group_was_put_in_by_hand() -> None:
    p, q = ones(2)
    optimizer = ft.SGD([("p", p)], lr=0.1)
    optimizer.step()
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [q], "param_names": ["q"], "lr": 0.2})
    watch = optimizer.watch(every=1)
    optimizer.step()
    assert list(watch.last) == ["p", "q"]
    assert q.tolist() == pytest.approx([0.8, 0.8])


def test_an_entry_of_the_users_that_is_called_as_another_rules_option() -> None:
    """A schedule-free average takes its weight from the rule's own option, whatever else a group holds."""
    ends = []
    for entries in ({}, {"momentum": 0.25}):
        (p,) = ones()
        optimizer = ft.ScheduleFreeAdamW([{"params": [p], **entries}], lr=0.5)
        for _ in range(2):
            optimizer.step()
        optimizer.eval()
        ends.append(p.tolist())
    assert ends[0] == ends[1]
    table = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = ft.SparseAdam([{"params": [table], "momentum": 0.9, "weight_decay": torch.ones(3)}], lr=0.5)
    table.grad = torch.sparse_coo_tensor([[1]], [[1.0, 1.0]], (3, 2), check_invariants=True)
    optimizer.step()
    assert table[1].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", ["lr", "betas", "eps", "master"])
def test_switching_between_points_where_an_option_is_gone(name: str) -> None:
    (p,) = ones()
    optimizer = ft.ScheduleFreeAdamW([p], lr=0.5)
    optimizer.step()
    left = p.tolist()
    del optimizer.param_groups[0][name]
    if name == "master":  # of this package alone: it is filled in
        optimizer.eval()
        return
    with pytest.raises(ValueError, match=rf'^param_groups\[0\]: got no entry "{name}"'):
        optimizer.eval()
    assert p.tolist() == left
    optimizer.param_groups[0]["params"] = None
    with pytest.raises(TypeError, match=r'^param_groups\[0\]\["params"\]: got NoneType, needs a list of tensors'):
        optimizer.eval()


def test_a_group_without_an_option_that_the_rule_needs() -> None:
    (p,) = ones()
    optimizer = ft.SGD([p], lr=0.1)
    optimizer.param_groups = [{"params": [p], "lr": 0.1}]
    with pytest.raises(ValueError, match=r'param_groups\[0\]: got no entry "'):
        optimizer.step()
    assert p.tolist() == [1.0, 1.0]


def test_stepping_in_backward_after_groups_changed() -> None:
    a, b, c = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = ft.apply_in_backward([{"params": [a]}, {"params": [b]}], ft.SGD, lr=0.5)
    (a.sum() + b.sum()).backward()
    del optimizer.param_groups[0]
    optimizer.add_param_group({"params": [c], "lr": 0.25})
    (a.sum() + b.sum() + c.sum()).backward()
    assert (a[0].item(), b[0].item(), c[0].item()) == (0.5, 0.0, 0.75)
    copied = copy.deepcopy(optimizer)
    mine = copied.param_groups[0]["params"][0]
    mine.sum().backward()
    assert mine.tolist() == [-0.5, -0.5] and b.tolist() == [0.0, 0.0]


@pytest.mark.skipif(TORCH < (2, 6), reason="needs torch 2.6, the first with param_names")
def test_names_without_utf8() -> None:
    (p,) = ones()
    optimizer = ft.Adam([("\ud800", p)], lr=0.5)
    optimizer.step()
    assert p.tolist() == [0.5, 0.5] and optimizer.state_dict()["param_groups"][0]["param_names"] == ["\ud800"]
    p.data = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r'params\["\\ud800"\]'):
        optimizer.step()


@pytest.mark.parametrize("offload", [False, True])
def test_parameters_taken_out_of_the_groups_keep_their_gradients(offload: bool) -> None:
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups: Any = [{"params": [a]}, {"params": [b]}]
    if offload:
        optimizer: Any = ft.CPUOffload(ft.SGD, groups, lr=0.5, free_gradients=True)
    else:
        optimizer = ft.apply_in_backward(groups, ft.SGD, lr=0.5)
    found = []
    for _ in range(3):
        (a.sum() + b.sum()).backward()
        optimizer.step()
        found.append(None if a.grad is None else a.grad.tolist())
        optimizer.param_groups = optimizer.param_groups[-1:]
    assert found == [None, [1.0, 1.0], [2.0, 2.0]]
    assert a.tolist() == [0.5, 0.5] and b.tolist() == [-0.5, -0.5] and b.grad is None


# ---- first steps ----


def nonfinite(p: Any) -> Any:
    p.grad = torch.full((1,), float("nan"))
    return p


@pytest.mark.parametrize("between", ["nothing", "group", "saved", "copied", "pickled", "option", "state looked at"])
def test_dampening_leaves_out_the_first_step_that_is_taken(between: str) -> None:
    p = nonfinite(torch.nn.Parameter(torch.ones(1)))
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "skip_nonfinite": True}
    optimizer = ft.SGD([p], **options)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    if between == "group":
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    elif between == "saved":
        saved = copy.deepcopy(optimizer.state_dict())
        assert saved["state"] == {}
        optimizer = ft.SGD([p], **options)
        optimizer.load_state_dict(saved)
    elif between == "copied":
        optimizer = copy.deepcopy(optimizer)
        (p,) = optimizer.param_groups[0]["params"]
    elif between == "pickled":
        optimizer = pickle.loads(pickle.dumps(optimizer))
        (p,) = optimizer.param_groups[0]["params"]
    elif between == "option":
        optimizer.max_grad_norm = 100.0
    elif between == "state looked at":
        assert optimizer.state is not None
    p.grad = torch.ones(1)
    optimizer.step()
    assert p.item() == pytest.approx(0.9)
    optimizer.step()
    assert p.item() == pytest.approx(0.9 - 0.1 * 1.4)


def test_dampening_of_states_that_are_put_in_or_made_early() -> None:
    (p,) = ones(size=1)
    optimizer = ft.SGD([p], lr=0.1, momentum=0.9, dampening=0.5)
    optimizer.state[p]["momentum_buffer"] = torch.zeros(1)
    optimizer.step()
    assert p.item() == pytest.approx(0.95)
    q = torch.nn.Parameter(torch.ones(1))
    inside = ft.apply_in_backward([q], ft.SGD, lr=0.1, momentum=0.9, dampening=0.5)
    inside.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    q.sum().backward()
    assert q.item() == pytest.approx(0.9)


def test_averages_with_frozen_parameters() -> None:
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = ft.AdamW([a, b], lr=0.5, weight_decay=0.0, ema_decay=0.75)
    assert optimizer.ema_params()[0][0] is a
    a.sum().backward()
    optimizer.step()
    averages = optimizer.ema_params()[0]
    assert averages[0].tolist() == pytest.approx([0.875, 0.875])
    assert averages[1] is b
    with pytest.raises(ValueError, match=r"param_groups\[0\]: has no averages, needs ema_decay"):
        ft.AdamW([a]).ema_params()


def test_parameters_made_in_inference_mode() -> None:
    with torch.inference_mode():
        p = torch.ones(3)
    optimizer = ft.SGD([p], lr=0.5, momentum=0.5)
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="inference mode"):
        optimizer.step()
    assert p.tolist() == [1.0] * 3
    with torch.inference_mode():
        optimizer.step()
        optimizer.step()
    assert p.tolist() == [-0.25] * 3


@pytest.mark.parametrize("offload", [False, True])
def test_states_made_in_inference_mode_are_ordinary_tensors(offload: bool) -> None:
    """Or no later step, load or change could write them."""
    options = {"master": "float32", "ema_decay": 0.9, "state_format": "8bit", "min_quantized_size": 0}
    p = torch.nn.Parameter(torch.ones(300, dtype=torch.bfloat16))
    optimizer = ft.CPUOffload(ft.AdamW, [p], **options) if offload else ft.AdamW([p], **options)
    with torch.inference_mode():
        p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    assert not any(value.is_inference() for value in optimizer.state[p].values())
    optimizer.step()
    assert optimizer.state[p]["step"] == 2


def test_gradients_made_in_inference_mode_are_set_to_zero() -> None:
    for layout in ("dense", "strided", "sparse"):
        p = torch.nn.Parameter(torch.ones(4, 3))
        with torch.inference_mode():
            p.grad = torch.ones(3, 4).t() if layout == "strided" else torch.ones(4, 3)
            p.grad = p.grad.to_sparse(1) if layout == "sparse" else p.grad
        ft.SGD([p], lr=0.5, zero_grads=True).step()
        assert p.tolist() == [[0.5] * 3] * 4
        assert not p.grad.to_dense().any()


def test_schedule_free_parameters_made_in_inference_mode_switch_in_no_other() -> None:
    """torch's `copy_` writes before it finds that it must not."""
    with torch.inference_mode():
        p = torch.ones(3)
        optimizer = ft.ScheduleFreeSGD([p], lr=0.5)
        p.grad = torch.ones(3)
        optimizer.step()
        optimizer.step()
    before = p.tolist()
    with pytest.raises(RuntimeError, match=r"^params\[0\]\[0\]: got a tensor made in inference mode, needs torch"):
        optimizer.eval()
    assert optimizer.training
    assert p.tolist() == before
    with torch.inference_mode():
        optimizer.eval()
    assert p.tolist() != before


# ---- attributes ----


@pytest.mark.parametrize("offload", [False, True])
def test_options_as_attributes(offload: bool) -> None:
    params = ones(2)
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    optimizer = ft.CPUOffload(ft.SGD, groups, lr=0.5) if offload else ft.SGD(groups, lr=0.5)
    assert optimizer.lr == 0.5 and optimizer.momentum == 0 and optimizer.clip_value is None
    optimizer.lr = 0.25
    optimizer.step()
    assert [p.tolist() for p in params] == [[0.75, 0.75]] * 2
    optimizer.param_groups[1]["lr"] = 0.125
    with pytest.raises(AttributeError, match=r"lr: got 0.25 in param_groups\[0\] and 0.125 in param_groups\[1\]"):
        _ = optimizer.lr
    optimizer.lr = torch.tensor(0.5)
    optimizer.step()
    assert [p.tolist() for p in params] == [[0.25, 0.25]] * 2


def test_a_bad_option_changes_no_group() -> None:
    params = ones(2)
    optimizer = ft.SGD([{"params": params[:1], "nesterov": True}, {"params": params[1:]}], lr=0.5, momentum=0.5)
    with pytest.raises(ValueError, match="momentum"):
        optimizer.momentum = 0.0
    with pytest.raises(ValueError, match="lr"):
        optimizer.lr = -1.0
    assert [group["momentum"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rate", "lr"),
        ("LR", "lr"),
        ("beta1", "betas"),
        ("epsilon", "eps"),
        ("weightdecay", "weight_decay"),
        ("clip_norm", None),
        ("wd", "weight_decay"),
    ],
)
def test_misspelled_options(name: str, meant: str | None) -> None:
    optimizer = ft.Adam(ones())
    if meant is not None:
        with pytest.raises(AttributeError, match=f"did you mean {meant}"):
            setattr(optimizer, name, 0.1)
        assert name not in optimizer.__dict__
    hint = ", did you mean " if name != "LR" else ""
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'{hint}"):
        ft.Adam(ones(), **{name: 0.1})


@pytest.mark.parametrize(
    "name", ["_step_count", "_opt_called", "grad_scale", "found_inf", "best", "epoch", "_hook_for_profile", "logger"]
)
def test_attributes_of_users_and_libraries(name: str) -> None:
    optimizer = ft.Adam(ones())
    setattr(optimizer, name, 3)
    assert getattr(optimizer, name) == 3


def test_an_attribute_that_there_is_not() -> None:
    optimizer = ft.Adam(ones())
    with pytest.raises(AttributeError, match="learning_rate"):
        _ = optimizer.learning_rate
    assert not hasattr(optimizer, "momentum")


def test_subclasses_with_attributes_of_their_own() -> None:
    class Mine(ft.Adam):  # type: ignore[misc, name-defined]
        rate = 1.0

        def __init__(self, params: Any) -> None:
            self.decay = 0.5
            super().__init__(params)
            self.rate = 2.0
            self.decay = 0.25

    optimizer = Mine(ones())
    assert (optimizer.rate, optimizer.decay) == (2.0, 0.25)
    assert optimizer.param_groups[0]["weight_decay"] == 0


# ---- wrappers ----


class Forwarding:
    """What the wrappers of training libraries are: of a subclass of the optimizer's class, made on the fly."""

    def __init__(self, optimizer: Any) -> None:
        self.__class__ = type("Forwarding", (Forwarding, type(optimizer)), {})
        self._wrapped = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_wrapped"], name)


@pytest.mark.parametrize("offload", [False, True])
def test_wrappers_that_forward_attributes(offload: bool) -> None:
    (p,) = ones()
    options = {"lr": 0.5, "momentum": 0.5, "max_grad_norm": 100.0}
    optimizer = ft.CPUOffload(ft.SGD, [p], **options) if offload else ft.SGD([p], **options)
    wrapped: Any = Forwarding(optimizer)
    optimizer.step()
    assert wrapped.state[p]["momentum_buffer"].tolist() == [1.0, 1.0]
    torch.testing.assert_close(wrapped.state_dict()["state"], optimizer.state_dict()["state"])
    assert wrapped.grad_norm == pytest.approx(2**0.5)
    assert wrapped.lr == 0.5
    wrapped.lr = 0.25
    wrapped.max_grad_norm = None
    wrapped.skip_nonfinite = True
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.max_grad_norm is None and optimizer.skip_nonfinite
    saved = copy.deepcopy(wrapped.state_dict())
    wrapped.step()
    wrapped.load_state_dict(saved)
    assert optimizer.state[p]["momentum_buffer"].tolist() == [1.0, 1.0]
    wrapped.state.clear()
    assert not optimizer.state
    wrapped.state = {}
    wrapped.add_param_group({"params": ones()})
    assert len(optimizer.param_groups) == 2
    p.grad = torch.full((2,), float("inf"))
    wrapped.step()
    assert optimizer.skipped_steps == wrapped.skipped_steps == 1
    assert set(wrapped.__dict__) <= {"_wrapped", "_zero_grad_profile_name"}


# ---- memory and threads ----


@pytest.mark.parametrize("how", ["clear", "pop", "del", "assign", "assign nothing"])
def test_states_that_are_taken_out_are_freed(how: str) -> None:
    (p,) = ones()
    optimizer = ft.Adam([p])
    optimizer.step()
    seen = weakref.ref(optimizer.state[p]["exp_avg"])
    if how == "clear":
        optimizer.state.clear()
    elif how == "pop":
        optimizer.state.pop(p)
    elif how == "del":
        del optimizer.state[p]
    elif how == "assign":
        optimizer.state = {}
    else:
        optimizer.state[p] = {}
        optimizer.step()
    gc.collect()
    assert seen() is None


def test_other_threads_are_kept_out_during_a_step() -> None:
    (p,) = ones()
    optimizer = ft.Adam([p])
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with optimizer._claim.exclusive("step()"):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    try:
        for call in (
            optimizer.state_dict,
            optimizer.step,
            lambda: optimizer.load_state_dict(saved),
            lambda: optimizer.add_param_group({"params": ones()}),
            lambda: copy.deepcopy(optimizer),
            lambda: pickle.dumps(optimizer),
        ):
            with pytest.raises(RuntimeError, match="another thread"):
                call()
    finally:
        leave.set()
        thread.join()
    assert len(optimizer.param_groups) == 1
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_of_the_installed_torch_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that came later than the installed torch are options of the groups all the same."""
    theirs = getattr(torch.optim, name)
    whole = theirs.__init__

    def older(self: Any, params: Any, lr: Any = 1e-3) -> None:
        whole(self, params, lr=lr)

    monkeypatch.setattr(theirs, "__init__", older)
    model = network()
    optimizer = (
        getattr(ft, name)(model.parameters(), weight_decay=0.25 if name != "Rprop" else 0.0)
        if (name != "Rprop")
        else ft.Rprop(model.parameters())
    )
    if name != "Rprop":
        assert optimizer.param_groups[0]["weight_decay"] == 0.25
    train(model, optimizer, 2)

"""State dicts into the optimizers for torch: all of it is taken over, converted, or refused with nothing changed."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")
from torch_training import assert_same, network, train  # noqa: E402

NAMES = ["SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop"]
QUANTIZED = ["SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam"]
EIGHT_BITS = {"state_format": "8bit", "min_quantized_size": 0}


def stepped(name: str = "Adam", size: Any = 600, dtype: Any = torch.float32, **options: Any) -> tuple[Any, Any]:
    p = torch.nn.Parameter(torch.linspace(-1, 1, math.prod(np.atleast_1d(size))).reshape(size).to(dtype))
    if name == "SGD":
        options = {"momentum": 0.9, **options}
    optimizer = getattr(ft, name)([p], lr=1e-2, **options)
    for k in range(2):
        p.grad = torch.sin(torch.arange(p.numel()) + k).reshape(size).to(dtype)
        optimizer.step()
    return p, optimizer


# ---- older and other dicts ----


@pytest.mark.parametrize("name", NAMES)
def test_dicts_of_older_versions_of_torch(name: str) -> None:
    """Options that came later get the defaults of torch, not what this optimizer was made with."""
    later = ["maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"]
    later += ["amsgrad", "centered", "nesterov"]
    results = []
    for module in (torch.optim, ft):
        model = network()
        old = getattr(torch.optim, name)(model.parameters(), lr=0.01)
        train(model, old, 2)
        saved = copy.deepcopy(old.state_dict())
        for key in later:
            saved["param_groups"][0].pop(key, None)
        optimizer = getattr(module, name)(model.parameters(), lr=0.5, maximize=True)
        optimizer.load_state_dict(saved)
        train(model, optimizer, 2)
        assert optimizer.param_groups[0]["maximize"] is False
        results.append(model)
    assert_same(results[1], results[0])


def test_an_option_that_no_version_of_torch_lacks() -> None:
    _, optimizer = stepped()
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["param_groups"][0]["lr"]
    with pytest.raises(ValueError, match=r'state_dict\["param_groups"\]\[0\]: got no entry "lr"'):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("option", ["capturable", "differentiable", "foreach", "fused"])
def test_options_that_choose_an_implementation_are_ignored(option: str) -> None:
    p, optimizer = stepped()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0][option] = True
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 3
    assert not optimizer.param_groups[0]["capturable"]
    assert not optimizer.param_groups[0]["differentiable"]


@pytest.mark.parametrize("options", [{}, {"state_format": "bfloat16"}, EIGHT_BITS], ids=["32", "16", "8"])
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "AdamW", "NAdam", "ASGD", "Lion", "ScheduleFreeAdamW"])
def test_dicts_of_arrays(name: str, options: dict[str, Any]) -> None:
    if name in ("ASGD", "ScheduleFreeAdamW") and options:
        options = {}
    if options:
        options = options | {"min_quantized_size": 0}
        pytest.importorskip("ml_dtypes")
    if name == "SGD":
        options = options | {"momentum": 0.9}
    array = np.linspace(-1, 1, 600, dtype=np.float32)
    numpys = getattr(fs, name)(array, lr=0.01, **options)
    grads = [np.sin(np.arange(600) + k).astype(np.float32) for k in range(4)]
    for grad in grads[:2]:
        numpys.step(grad)
    p = torch.nn.Parameter(torch.from_numpy(array.copy()))
    optimizer = getattr(ft, name)([p], lr=0.5, **options)
    optimizer.load_state_dict(numpys.state_dict())
    for grad in grads[2:]:
        numpys.step(grad)
        p.grad = torch.from_numpy(grad)
        optimizer.step()
    assert p.detach().numpy().tobytes() == array.tobytes()


def test_bfloat16_arrays_without_their_dtype() -> None:
    """As np.load gives them back."""
    p, optimizer = stepped(state_format="bfloat16", min_quantized_size=0)
    expected = optimizer.state[p]["exp_avg"].clone()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg"] = expected.view(torch.int16).numpy().view("V2")
    optimizer.load_state_dict(saved)
    assert torch.equal(optimizer.state[p]["exp_avg"], expected)


# ---- formats ----


@pytest.mark.parametrize("name", QUANTIZED)
def test_torch_refuses_8_bit_states(name: str) -> None:
    p, optimizer = stepped(name, **EIGHT_BITS)
    options = {"momentum": 0.9} if name == "SGD" else {}
    theirs = getattr(torch.optim, name)([p], lr=1e-2, **options)
    with pytest.raises((KeyError, RuntimeError)):
        theirs.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("state_format", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_8_bit_states_as_numbers_for_torch(name: str, state_format: str) -> None:
    p, optimizer = stepped(name, **EIGHT_BITS)
    options = {"momentum": 0.9} if name == "SGD" else {}
    theirs = getattr(torch.optim, name)([p], lr=1e-2, **options)
    saved = optimizer.state_dict(state_format=state_format)
    theirs.load_state_dict(saved)
    for key, value in theirs.state[p].items():
        codes, scales = optimizer.state[p][key], optimizer.state[p].get(f"{key}_scales")
        if scales is not None:
            signed = bool((codes > 127).any() and key not in ("exp_avg_sq", "square_avg", "exp_inf", "acc_delta"))
            codes = fs.formats.decode_8bit(codes.numpy(), scales.numpy(), signed=signed)
            tolerance = 0 if state_format == "float32" else 2**-8
            torch.testing.assert_close(value, torch.from_numpy(codes), rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", QUANTIZED)
def test_numbers_come_back_as_the_codes_they_were(name: str) -> None:
    p, optimizer = stepped(name, **EIGHT_BITS)
    before = {key: value.clone() for key, value in optimizer.state[p].items()}
    optimizer.load_state_dict(optimizer.state_dict(state_format="float32"))
    for key, value in optimizer.state[p].items():
        assert torch.equal(value, before[key]), key


def test_a_state_format_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="state_format"):
        stepped()[1].state_dict(state_format="4bit")


@pytest.mark.parametrize("name", QUANTIZED)
def test_8_bit_dicts_saved_and_loaded(name: str) -> None:
    p, optimizer = stepped(name, **EIGHT_BITS)
    before = {key: value.clone() for key, value in optimizer.state[p].items()}
    again = getattr(ft, name)([p], **EIGHT_BITS)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.state[p].keys() == before.keys()
    for key, value in again.state[p].items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("into", [{}, EIGHT_BITS], ids=["32", "8"])
def test_8_bit_codes_into_another_order_of_memory(into: dict[str, Any]) -> None:
    """Blocks of codes follow the order of memory."""
    shape = (16, 32, 3, 3)
    source = torch.nn.Parameter(torch.zeros(shape).to(memory_format=torch.channels_last))
    source.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    source.grad *= torch.arange(16).reshape(-1, 1, 1, 1) + 1  # scales that differ from block to block
    first = ft.Adam([source], **EIGHT_BITS)
    first.step()
    expected = first.state_dict(state_format="float32")["state"][0]
    p = torch.nn.Parameter(torch.zeros(shape))
    second = ft.Adam([p], **into)
    second.load_state_dict(first.state_dict())
    found = second.state_dict(state_format="float32")["state"][0]
    for key in ("exp_avg", "exp_avg_sq"):
        tolerance = 0.15 if into else 0.0  # encoded anew, in other blocks
        largest = expected[key].abs().max()
        assert ((found[key] - expected[key]).abs() <= tolerance * largest).all()
        assert second.state[p][key].is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", [{}, EIGHT_BITS | {"ema_decay": 0.9}], ids=["32", "8"])
def test_a_checkpoint_that_was_cast_as_a_whole(dtype: Any, options: dict[str, Any]) -> None:
    p, optimizer = stepped(**options)
    before = {key: value.clone() for key, value in optimizer.state[p].items()}
    saved = copy.deepcopy(optimizer.state_dict())
    for key, value in saved["state"][0].items():
        if value.is_floating_point():
            saved["state"][0][key] = value.to(dtype)
    optimizer.load_state_dict(saved)
    for key, value in optimizer.state[p].items():
        assert value.dtype == before[key].dtype or key == "step"
        wide, exact = value.double(), before[key].double()
        assert torch.equal(wide, exact if before[key].dtype == torch.uint8 else exact.to(dtype).double()), key
    optimizer.step()
    assert p.isfinite().all()


def test_one_kind_of_master_from_the_other() -> None:
    """Halfway between two bfloat16 they have different parameters: there, and only there, the rest is lost."""
    for first, second, entry in (("float32", "split", "master"), ("split", "float32", "remainder")):
        p, optimizer = stepped(dtype=torch.bfloat16, master=first)
        other = ft.Adam([p], master=second)
        other.load_state_dict(optimizer.state_dict())
        assert entry not in other.state[p]
        state = optimizer.state[p] | other.state[p]
        joined = fs.formats.join(p.detach().view(torch.int16).numpy(), state["remainder"].numpy())
        ties = (state["master"].view(torch.int32) & 0xFFFF) == 0x8000
        torch.testing.assert_close(torch.from_numpy(joined)[~ties], state["master"][~ties], rtol=0, atol=0)
        assert not ties.all()
        other.step()


def test_what_the_optimizer_has_no_use_for_is_left_out() -> None:
    p, optimizer = stepped(dtype=torch.bfloat16, master="split", ema_decay=0.9)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["ema_decay"] = None
    other = ft.Adam([p])
    other.load_state_dict(saved)
    assert other.state[p].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_averages_and_masters_of_parameters_with_gaps_begin_as_they_are() -> None:
    p = torch.nn.Parameter(torch.arange(24, dtype=torch.bfloat16).reshape(4, 6)[:, ::2])
    theirs = torch.optim.Adam([p])
    p.grad = torch.ones_like(p)
    theirs.step()
    optimizer = ft.Adam([p], ema_decay=0.9, master="float32")
    saved = theirs.state_dict()
    saved["param_groups"][0]["ema_decay"] = 0.9
    optimizer.load_state_dict(saved)
    for name in ("ema", "master"):
        assert torch.equal(optimizer.state[p][name], p.detach().float())


# ---- what is refused ----


def spoil_state(name: str, value: Any) -> Any:
    def spoil(saved: Any) -> None:
        saved["state"][1][name] = value

    return spoil


def spoil_group(**entries: Any) -> Any:
    return lambda saved: saved["param_groups"][0].update(entries)


def spoil_entry(**entries: Any) -> Any:
    return lambda saved: saved["fusedstep"].update(entries)


SPOILED: dict[str, tuple[Any, type[Exception], str]] = {
    "a step that is infinite": (
        spoil_state("step", math.inf),
        ValueError,
        r'\["step"\]: got inf, needs a whole number',
    ),
    "a step that is huge": (spoil_state("step", torch.tensor(1e30)), ValueError, r'\["step"\]: got 1e\+30'),
    "half a step": (spoil_state("step", torch.tensor(0.5)), ValueError, r'\["step"\]: got 0.5'),
    "a negative step": (spoil_state("step", -1), ValueError, r'\["step"\]: got -1'),
    "a step that is no number": (spoil_state("step", torch.tensor(math.nan)), ValueError, r'\["step"\]: got nan'),
    "several steps": (spoil_state("step", torch.ones(2)), TypeError, r'\["step"\]: got Tensor, needs a real number'),
    "a word for a step": (spoil_state("step", "3"), TypeError, r'\["step"\]: got str'),
    "scales of whole numbers": (
        spoil_state("exp_avg_scales", torch.zeros(3, dtype=torch.uint8)),
        TypeError,
        r'\["exp_avg_scales"\]: got torch.uint8, needs a float dtype',
    ),
    "too few scales": (spoil_state("exp_avg_scales", torch.zeros(2)), ValueError, "got 2 elements, needs 3"),
    "no scales": (spoil_state("exp_avg_scales", None), TypeError, "got torch.uint8, needs a float dtype, or codes"),
    "codes of floats": (spoil_state("exp_avg_codes", torch.zeros(600)), TypeError, "needs torch.uint8 codes"),
    "a list for a state": (spoil_state("exp_avg_codes", [1.0]), TypeError, "got list, needs a tensor"),
    "an array of words": (spoil_state("exp_avg_codes", np.array(["x"])), TypeError, "needs a float dtype"),
    "a short average": (spoil_state("ema", torch.zeros(10)), ValueError, r'\["ema"\]: got shape \(10,\), needs'),
    "an average of whole numbers": (spoil_state("ema", torch.ones(600, dtype=torch.int32)), TypeError, "int32"),
    "complex averages": (spoil_state("ema", torch.ones(600, dtype=torch.complex64)), TypeError, "complex64"),
    "a short remainder": (spoil_state("remainder", torch.zeros(9, dtype=torch.int16)), ValueError, "remainder"),
    "a remainder of floats": (spoil_state("remainder", torch.zeros(600)), TypeError, "needs torch.int16"),
    "a sparse step": (spoil_state("step", torch.tensor([3.0]).to_sparse()), TypeError, r'\["step"\]: got a tensor of'),
    "a sparse average": (spoil_state("ema", torch.ones(600).to_sparse()), TypeError, r'\["ema"\]: got a tensor of'),
    "a step beyond all floats": (spoil_state("step", 10**400), ValueError, r'\["step"\]: got inf, needs a whole'),
    "an average without memory": (
        spoil_state("ema", torch.ones(600, device="meta")),
        ValueError,
        r'\["ema"\]: got a tensor on the meta device, needs one with memory',
    ),
    "scales without memory": (
        spoil_state("exp_avg_scales", torch.ones(3, device="meta")),
        ValueError,
        r'\["exp_avg_scales"\]: got a tensor on the meta device, needs one with memory',
    ),
    "an option without memory": (
        spoil_group(eps_root=torch.ones(1, device="meta")),
        ValueError,
        r'\["eps_root"\]: got a tensor on meta, needs one with memory',
    ),
    "several numbers for an option": (
        spoil_group(decoupled_weight_decay=torch.ones(3)),
        ValueError,
        "decoupled_weight_decay: got a tensor of 3 elements, needs one element",
    ),
    "a number for a pair": (spoil_group(betas=np.array(0.9)), TypeError, r'\["betas"\]: got .*, needs a pair'),
    "a state that is a list": (lambda saved: saved["state"].update({1: [1]}), TypeError, "got list, needs a dict"),
    "states that are a list": (lambda saved: saved.update(state=[1]), TypeError, r'state_dict\["state"\]: got list'),
    "no states": (lambda saved: saved.pop("state"), ValueError, 'got no entry "state"'),
    "no groups": (lambda saved: saved.pop("param_groups"), ValueError, 'got no entry "param_groups"'),
    "a group that is a list": (lambda saved: saved.update(param_groups=[[1]]), TypeError, "got list, needs a dict"),
    "a number twice": (
        lambda saved: saved["param_groups"][0].update(params=[1, 1]),
        ValueError,
        r'\["params"\]: got 1 twice',
    ),
    "a list for a number": (lambda saved: saved["param_groups"][0].update(params=[0, []]), TypeError, "got list"),
    "an option out of range": (lambda saved: saved["param_groups"][0].update(lr=-1.0), ValueError, r'\["lr"\]'),
    "a schedule": (lambda saved: saved["param_groups"][0].update(eps_root=abs), TypeError, r'\["eps_root"\]'),
    "max_grad_norm NaN": (spoil_entry(max_grad_norm=math.nan), ValueError, r'state_dict\["fusedstep"\].*max_grad_norm'),
    "max_grad_norm -1": (spoil_entry(max_grad_norm=-1.0), ValueError, "max_grad_norm"),
    "max_grad_norm x": (spoil_entry(max_grad_norm="x"), TypeError, "max_grad_norm"),
    "seed -1": (spoil_entry(seed=-1), ValueError, "seed"),
    "zero_grads no": (spoil_entry(zero_grads="no"), TypeError, "zero_grads"),
    "skip_nonfinite None": (spoil_entry(skip_nonfinite=None), TypeError, "skip_nonfinite"),
    "skipped_steps x": (spoil_entry(skipped_steps="x"), TypeError, "skipped_steps"),
    "skipped_steps -5": (spoil_entry(skipped_steps=-5), ValueError, "skipped_steps"),
    "another rule": (spoil_entry(rule="sgd"), ValueError, r'\["rule"\]: got \'sgd\', needs \'adam\''),
    "a rule that is a list": (spoil_entry(rule=[]), ValueError, "rule"),
    "an own entry that is a list": (lambda saved: saved.update(fusedstep=[1]), TypeError, r'\["fusedstep"\]: got list'),
}


@pytest.mark.parametrize("kind", SPOILED)
@pytest.mark.parametrize("offload", [False, True])
def test_a_spoiled_dict_changes_nothing(kind: str, offload: bool) -> None:
    spoil, error, text = SPOILED[kind]
    options = EIGHT_BITS | {"ema_decay": 0.9, "master": "split"}
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 600).to(torch.bfloat16)) for _ in range(2)]
    optimizer = ft.CPUOffload(ft.Adam, params, **options) if offload else ft.Adam(params, **options)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    model = optimizer._model
    spoil(saved)
    with pytest.raises(error, match=text):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    torch.testing.assert_close(after.pop("state"), before.pop("state"), rtol=0, atol=0)
    assert after == before
    assert optimizer._model is model
    optimizer.step()
    assert optimizer.state[params[1]]["step"].item() == 3


@pytest.mark.parametrize("names", [3, "ab", np.ones((2, 2)), [[], "bias"], ["weight", np.ones(2)], None], ids=repr)
def test_names_that_are_none(names: Any) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = ft.Adam(model.named_parameters())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["param_names"] = names
    if names is None:  # by position
        optimizer.load_state_dict(saved)
        return
    with pytest.raises(
        TypeError, match=r'^state_dict\["param_groups"\]\[0\]\["param_names"\]: got .*, needs a list of'
    ):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("rule", [np.ones(2), torch.ones(2), ["muon"]], ids=repr)
def test_a_groups_rule_that_is_no_name(rule: Any) -> None:
    optimizer = ft.Muon([torch.nn.Parameter(torch.ones(2, 2))])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["rule"] = rule
    with pytest.raises(ValueError, match=r'\["rule"\]: got .*, needs \'muon\''):
        optimizer.load_state_dict(saved)


def test_a_step_option_that_is_missing() -> None:
    """torch fills in those that came later, but for Adafactor, which always had it."""
    optimizer = ft.Adafactor([torch.nn.Parameter(torch.ones(2, 2))])
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["maximize"]
    with pytest.raises(ValueError, match=r'^state_dict\["param_groups"\]\[0\]: got no entry "maximize"'):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("other", [torch.ones(2, device="meta"), torch.ones(2).to_sparse(), torch.ones(2, dtype=int)])
def test_entries_of_others_may_be_tensors_of_any_kind(other: Any) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ft.Adam([p])
    p.grad = torch.ones(3)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["theirs"] = other
    optimizer.load_state_dict(saved)
    optimizer.step()
    kept = optimizer.state[p]["theirs"]
    assert (kept.layout, kept.device, kept.dtype) == (other.layout, other.device, other.dtype)


def test_an_error_while_the_dict_is_put_in_place() -> None:
    class Strict(ft.Adam):  # type: ignore[misc, name-defined]
        def __setstate__(self, state: Any) -> None:
            super().__setstate__(state)
            raise RuntimeError("no")

    p = torch.nn.Parameter(torch.ones(3))
    optimizer = Strict([p])
    p.grad = torch.ones(3)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.5
    optimizer.step()
    with pytest.raises(RuntimeError, match="no"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 3


def test_a_parameter_twice_in_a_group_keeps_its_number() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = ft.Adam([p, p])
    optimizer.load_state_dict(optimizer.state_dict())


def test_adam_and_adamw_take_each_others_dicts() -> None:
    for first, second in ((ft.Adam, ft.AdamW), (ft.AdamW, ft.Adam)):
        results = []
        for module in (torch.optim, ft):
            model = network()
            one = getattr(module, first.__name__)(model.parameters(), lr=0.01, weight_decay=0.1)
            train(model, one, 2)
            two = getattr(module, second.__name__)(model.parameters())
            two.load_state_dict(one.state_dict())
            train(model, two, 2)
            results.append(model)
        assert_same(results[1], results[0])


# ---- names ----

NAMED = pytest.mark.skipif(torch.torch_version.TorchVersion(torch.__version__) < (2, 6), reason="torch 2.6 has names")


def two(names: list[str] | None, values: list[float]) -> tuple[list[Any], Any]:
    params = [torch.nn.Parameter(torch.full((2,), value)) for value in values]
    optimizer = ft.SGD(params if names is None else list(zip(names, params, strict=True)), lr=1.0, momentum=0.5)
    return params, optimizer


def filled(names: list[str] | None) -> Any:
    params, optimizer = two(names, [0.0, 0.0])
    params[0].grad, params[1].grad = torch.full((2,), 1.0), torch.full((2,), 2.0)
    optimizer.step()
    return optimizer.state_dict()


def buffers(params: list[Any], optimizer: Any) -> list[float]:
    return [optimizer.state[p]["momentum_buffer"][0].item() for p in params]


@NAMED
def test_parameters_are_matched_by_name() -> None:
    params, optimizer = two(["b", "a"], [0.0, 0.0])
    optimizer.load_state_dict(filled(["a", "b"]))
    assert buffers(params, optimizer) == [2.0, 1.0]
    assert optimizer.param_groups[0]["param_names"] == ["b", "a"]


@NAMED
@pytest.mark.parametrize(("here", "there"), [(None, ["a", "b"]), (["a", "b"], None), (None, None)])
def test_without_names_on_both_sides_they_are_matched_by_position(here: Any, there: Any) -> None:
    params, optimizer = two(here, [0.0, 0.0])
    optimizer.load_state_dict(filled(there))
    assert buffers(params, optimizer) == [1.0, 2.0]


@NAMED
@pytest.mark.parametrize("names", [["a", "c"], ["x.a", "x.b"], ["a", "a"]])
def test_names_that_differ_are_listed(names: list[str]) -> None:
    _, optimizer = two(["a", "b"], [0.0, 0.0])
    saved = filled(["a", "b"])
    saved["param_groups"][0]["param_names"] = names
    strange = [name for name in sorted(set(names)) if name not in ("a", "b")]
    with pytest.raises(ValueError, match="param_names") as caught:
        optimizer.load_state_dict(saved)
    for name in [*strange, "b"]:
        assert repr(name) in str(caught.value)
    assert not optimizer.state


@pytest.mark.parametrize("rule", ["Adam", "SGD"])
def test_8bit_states_go_on_in_numpy(rule: str) -> None:
    """`fusedstep.torch` saves codes under names, or in a dtype, that `torch.optim` refuses."""
    options: dict[str, Any] = {"lr": 0.01, "state_format": "8bit"}
    if rule == "SGD":
        options["momentum"] = 0.9
    values = np.random.default_rng(0).normal(size=(3, 5000)).astype(np.float32)
    param = torch.nn.Parameter(torch.from_numpy(values[0].copy()))
    optimizer = getattr(ft, rule)([param], **options)
    param.grad = torch.from_numpy(values[1].copy())
    optimizer.step()
    array = param.detach().numpy().copy()
    other = getattr(fs, rule)([array], **options)
    other.load_state_dict(optimizer.state_dict())
    param.grad = torch.from_numpy(values[2].copy())
    optimizer.step()
    other.step([values[2].copy()])
    assert array.tobytes() == param.detach().numpy().tobytes()
    assert other.state[0]["step"] == 2


@pytest.mark.parametrize("value", [lambda t: 0.1, "1", -1.0, math.nan])
def test_a_first_value_that_is_no_number(value: Any) -> None:
    """It is read when a parameter has its first gradient, long after the dict was loaded."""
    optimizer = ft.Adagrad([torch.nn.Parameter(torch.ones(3))])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["initial_accumulator_value"] = value
    with pytest.raises((TypeError, ValueError), match=r'\["initial_accumulator_value"\]: got .*, needs'):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["initial_accumulator_value"] == 0


@pytest.mark.parametrize("name", ["ASGD", "NAdam", "NovoGrad", "Prodigy", "ScheduleFreeSGD"])
def test_numbers_of_a_tensor_come_back_whole(name: str) -> None:
    """A run that goes on from a dict leaves the same bits: what is kept per tensor is float64."""
    wide = torch.ones(7, dtype=torch.float64)
    one = [torch.nn.Parameter(torch.linspace(-1, 1, 300)), torch.nn.Parameter(wide)]
    optimizer = getattr(ft, name)(one)

    def step(params: list[Any], stepped: Any, number: int) -> None:
        for param in params:
            param.grad = param.detach() * 0.7 + number
        stepped.step()

    for number in range(3):
        step(one, optimizer, number)
    other = [torch.nn.Parameter(param.detach().clone()) for param in one]
    resumed = getattr(ft, name)(other)
    resumed.load_state_dict(optimizer.state_dict())
    for number in range(3, 6):
        step(one, optimizer, number)
        step(other, resumed, number)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(value.dtype == torch.float64 for value in numbers_of(optimizer))


def numbers_of(optimizer: Any) -> list[Any]:
    """What is kept per tensor, but for the step count."""
    states = optimizer.state_dict()["state"].values()
    return [value for state in states for name, value in state.items() if name != "step" and value.ndim == 0]


@pytest.mark.parametrize("offload", [False, True])
def test_hooks_get_the_state_dict_that_is_returned(offload: bool) -> None:
    """Such as one that calls parameters by their names, or one that keeps a part."""
    param = torch.nn.Parameter(torch.ones(4))
    param.grad = torch.ones(4)
    options: dict[str, Any] = {"state_format": "8bit", "min_quantized_size": 1}
    named = [("weight", param)]
    optimizer = ft.CPUOffload(ft.Adam, named, **options) if offload else ft.Adam(named, **options)
    optimizer.step()
    expected = optimizer.state_dict()
    seen: list[Any] = []

    def by_name(_: Any, saved: dict[str, Any]) -> dict[str, Any]:
        groups = [{**group, "params": group["param_names"]} for group in saved["param_groups"]]
        return {**saved, "state": {"weight": saved["state"][0]}, "param_groups": groups}

    optimizer.register_state_dict_post_hook(lambda _, saved: seen.append(dict(saved)))
    handle = optimizer.register_state_dict_post_hook(by_name)
    saved = optimizer.state_dict()
    assert seen[0].keys() == expected.keys()
    assert saved["state"].keys() == {"weight"}
    assert saved["state"]["weight"].keys() == seen[0]["state"][0].keys() == expected["state"][0].keys()
    optimizer.load_state_dict(saved)
    handle.remove()
    optimizer.register_state_dict_post_hook(lambda _, saved: {"state": saved["state"]})
    assert optimizer.state_dict().keys() == {"state"}


@pytest.mark.parametrize("options", [{"ema_decay": 0.5}, {"state_format": "8bit", "min_quantized_size": 1}])
def test_a_flattened_dict_that_lacks_what_the_optimizer_adds(options: dict[str, Any]) -> None:
    """torch puts an empty dict in the place of what it lacks."""
    checkpoint = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    flat = checkpoint.StateDictOptions(flatten_optimizer_state_dict=True)
    results = []
    for load in (True, False):
        model = torch.nn.Linear(3, 2)
        for param in model.parameters():
            param.data.fill_(1.0)
        other = optimizer = ft.Adam(model.parameters(), lr=0.5)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        if load:
            saved = copy.deepcopy(checkpoint.get_optimizer_state_dict(model, optimizer, options=flat))
            optimizer.zero_grad()  # or torch refuses to make states
            other = ft.Adam(model.parameters(), lr=0.5, **options)
            checkpoint.set_optimizer_state_dict(model, other, saved, options=flat)
            model(torch.ones(1, 3)).sum().backward()
        other.step()
        assert other.state[model.weight]["step"].item() == 2
        results.append(model.weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-2)

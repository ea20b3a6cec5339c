"""What a subclass of an optimizer for torch overrides is called, or refused."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import fusedstep.torch as ft


@pytest.mark.parametrize("name", ["_init_group", "_process_value_according_to_param_policy"])
@pytest.mark.parametrize("mixed_in", [False, True])
def test_methods_that_nothing_would_call_are_refused(name: str, mixed_in: bool) -> None:
    body = {name: lambda self, *args: None}
    bases: tuple[type, ...] = (type("MixIn", (), body), ft.AdamW) if mixed_in else (ft.AdamW,)
    with pytest.raises(TypeError, match=rf"Mine\.{name}: got a method of its own"):
        type("Mine", bases, {} if mixed_in else body)
    type("Mine", (ft.AdamW,), {"step": lambda self, closure=None: None})

"""DeepSpeed on two processes: ZeRO stages 0 to 3 with and without offload, beside torch's optimizer."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")
if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed is not installed: DS_BUILD_OPS=0 pip install deepspeed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own

STAGES = [(0, False), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True)]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "torch": ("torch.optim", {}),
    "float32": ("fusedstep.torch", {}),
    "8bit": ("fusedstep.torch", {"state_format": "8bit"}),
}
SIZES = (32, 256, 3)
ELEMENTS = 32 * 256 + 256 + 256 * 3 + 3


def trained(rank: int, engine: Any, steps: int) -> list[float]:
    losses = []
    dtype = next(engine.parameters()).dtype
    for step in range(steps):
        x = torch.randn(8, SIZES[0], generator=torch.Generator().manual_seed(10 * step + rank)).to(dtype)
        loss = (engine(x) - x[:, : SIZES[-1]]).float().square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


def every_stage(rank: int, bfloat16: bool) -> Any:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", DS_ACCELERATOR="cpu")
    import deepspeed

    deepspeed.init_distributed("gloo")
    found = {}
    for stage, offload in STAGES:
        for kind, (module, options) in KINDS.items():
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Linear(SIZES[0], SIZES[1]), torch.nn.Tanh(), torch.nn.Linear(SIZES[1], SIZES[2])
            )
            optimizer = importlib.import_module(module).AdamW(model.parameters(), lr=1e-2, **options)
            config: dict[str, Any] = {
                "train_micro_batch_size_per_gpu": 8,
                "gradient_clipping": 0.5,
                "zero_force_ds_cpu_optimizer": False,
                "zero_allow_untested_optimizer": True,
                "zero_optimization": {"stage": stage},
                "bf16": {"enabled": bfloat16},
            }
            if offload:
                config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
            engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
            losses = trained(rank, engine, 6)
            held = sum(t.nbytes for state in optimizer.state.values() for k, t in state.items() if k != "step")
            engine.destroy()
            found[stage, offload, kind] = losses, held
    return found


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_zero(two_processes: Callable[..., Any], tolerance: float, bfloat16: bool) -> None:
    """The losses are those with torch's optimizer; with 8-bit states, and of bfloat16 models, nearly so."""
    ranks = two_processes(every_stage, bfloat16)
    for found in ranks:
        for stage, offload in STAGES:
            theirs, mine, narrow = (found[stage, offload, kind] for kind in KINDS)
            assert mine[0] == pytest.approx(theirs[0], rel=0.01 if bfloat16 else tolerance), (stage, offload)
            assert narrow[0] == pytest.approx(theirs[0], rel=0.02), (stage, offload)
            # The states: whole, or half in each process; two bytes an element in 8 bits, but for small tensors.
            share = ELEMENTS if stage == 0 else ELEMENTS / 2
            assert mine[1] == theirs[1] and abs(mine[1] - 8 * share) <= 16
            assert narrow[1] < mine[1] * (0.35 if stage == 0 else 0.26)

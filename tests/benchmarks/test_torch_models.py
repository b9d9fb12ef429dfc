"""The PyTorch side of the benchmark is the published model: stored logits and gradients."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is only in the dev extra")
from benchmarks.torch_models import CXV  # noqa: E402

COUNTS = {"cpv": 1_345_994, "cnv": 1_344_734, "cltv": 3_967_434}


@pytest.mark.parametrize("name", COUNTS)
def test_logits_and_gradients_equal_the_authors_code(name: str) -> None:
    with np.load(Path(__file__).parents[1] / "golden" / "cxv" / f"{name}.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}
    model = CXV(name, embed_dim=32, num_heads=2, depth=2).eval()
    params = {k.removeprefix("param:"): v for k, v in golden.items() if k.startswith("param:")}
    model.load_state_dict(params, strict=True)
    logits = model(golden["x"])
    torch.nn.functional.cross_entropy(logits, golden["y"].long()).backward()
    scale = golden["logits"].abs().max()
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=float(2e-5 * scale))
    for key, parameter in model.named_parameters():
        want = golden[f"grad:{key}"]
        # A gradient that is zero in exact arithmetic (CLTV's key bias) is stored as noise.
        atol = max(5e-4 * float(want.abs().max()), 1e-8)
        torch.testing.assert_close(parameter.grad, want, rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize("name", COUNTS)
def test_published_size(name: str) -> None:
    assert sum(p.numel() for p in CXV(name).parameters()) == COUNTS[name]

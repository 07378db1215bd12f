"""The floating-point format that ``auto`` chooses."""

import pytest
import torch

from cmb_plugin.networks import resolve_precision


@pytest.mark.parametrize(("computes_in_bfloat16", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch, computes_in_bfloat16, expected):
    """As torch answers for an A100 and for a V100, which both count as supported with emulation."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or computes_in_bfloat16
    )
    assert resolve_precision("auto", torch.device("cuda")) == expected

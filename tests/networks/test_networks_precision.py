"""The floating-point format that ``auto`` chooses."""

import pytest
import torch

from cmb_plugin.networks import precision, resolve_precision


@pytest.mark.parametrize(("computes_in_bfloat16", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch, computes_in_bfloat16, expected):
    """As torch answers for an A100 and for a V100, which both count as supported with emulation."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or computes_in_bfloat16
    )
    assert resolve_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("isa", "expected"), [(None, "bf16-mixed"), ("AVX512_CORE_AMX", "bf16-mixed"), ("AVX2", "32-true")]
)
def test_bfloat16_is_for_processors_whose_amx_may_be_used(monkeypatch, isa, expected):
    monkeypatch.setattr(precision, "_cpu_flags", lambda: {"avx2", "amx_bf16"})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert precision.resolve_precision("auto", torch.device("cpu")) == expected

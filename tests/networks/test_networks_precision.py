"""Which floating-point format a processor computes in."""

import pytest
import torch

from cmb_plugin.networks import precision


@pytest.mark.parametrize(
    ("isa", "expected"), [(None, "bf16-mixed"), ("AVX512_CORE_AMX", "bf16-mixed"), ("AVX2", "32-true")]
)
def test_bfloat16_is_for_processors_whose_amx_may_be_used(monkeypatch, isa, expected):
    monkeypatch.setattr(precision, "_cpu_flags", lambda: {"avx2", "amx_bf16"})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert precision.resolve_precision("auto", torch.device("cpu")) == expected

"""Which floating-point format a device computes in."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch

from cmb_plugin.errors import UserError
from cmb_plugin.plugins import suggest

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turns ``auto`` into what the device does fast, in Lightning's names.

    CUDA: bfloat16 where the card computes in it, else float16. CPU: bfloat16 only where the processor multiplies it in
    hardware (Intel AMX), since elsewhere it is emulated and slower than float32. Anything else: float32.

    Raises:
        UserError: the name is unknown, or float16 was asked for on a CPU.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision '{precision}'", remedy=suggest(precision, PRECISIONS))
    if precision == "16-mixed" and device.type == "cpu":
        raise UserError("precision 16-mixed needs a GPU", remedy="use bf16-mixed or 32-true on a CPU")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # Cards before Ampere emulate bfloat16: torch calls that supported, and it is slower than float32.
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if device.type == "cpu" and "amx_bf16" in _cpu_flags() and _onednn_may_use_amx():
        return "bf16-mixed"
    return "32-true"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context in which a network runs at ``precision`` outside Lightning, for prediction."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision(precision, device))
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _onednn_may_use_amx() -> bool:
    """Whether oneDNN, which computes the convolutions, is not kept from AMX by its own environment variable."""
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    return isa in ("DEFAULT", "ALL") or "AMX" in isa


def _cpu_flags() -> set[str]:
    """Processor features as Linux names them; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:  # noqa: PTH123 - a kernel pseudo-file
            return set(next(line for line in lines if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return set()

"""Half-precision formats for which a processor has instructions. Without them it is many times slower than in float32."""

from __future__ import annotations

import torch

INSTRUCTIONS = {
    torch.bfloat16: {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "sve_bf16": "SVE", "bf16": "Arm's BF16"},
    torch.float16: {"amx_fp16": "AMX-FP16", "avx512_fp16": "AVX512-FP16", "fp16_arith": "Arm's FP16"},
}
"""Format -> torch's name of a capability -> its usual name; the fastest first."""


def instructions_for(dtype: torch.dtype) -> str | None:
    """The instructions with which this machine's processor multiplies matrices in half precision; None if it has none for
    that."""
    capabilities = torch.cpu.get_capabilities()
    return next((name for capability, name in INSTRUCTIONS[dtype].items() if capabilities.get(capability)), None)

"""Which formats of half precision a processor has instructions for. Without them it is many times slower than in float32."""

from __future__ import annotations

import torch

INSTRUCTIONS = {
    torch.bfloat16: {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "sve_bf16": "SVE", "bf16": "Arm's BF16"},
    torch.float16: {"amx_fp16": "AMX-FP16", "avx512_fp16": "AVX512-FP16", "fp16_arith": "Arm's FP16"},
}
"""Format -> torch's name of a capability -> what people call it; the fastest first."""


def instructions_for(dtype: torch.dtype) -> str | None:
    """What this machine's processor multiplies matrices of a half precision with; None for nothing made for it."""
    capabilities = torch.cpu.get_capabilities()
    return next((name for capability, name in INSTRUCTIONS[dtype].items() if capabilities.get(capability)), None)

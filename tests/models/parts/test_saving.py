"""Students on disk that cannot be loaded; what can is in `tests/models/test_load.py`."""

import json

import pytest

from llmft.errors import InputError
from llmft.models.parts.saving import restore_student
from tests.conftest import tiny_model


def test_a_kind_of_adapter_that_is_not_supported(tmp_path):
    settings = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "base_model_name_or_path": "toy"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError) as caught:
        restore_student(tiny_model("opt"), tmp_path)
    remedy = "give an adapter of layers (LoRA, IA3, ...), PROMPT_TUNING or CARTRIDGE"
    assert str(caught.value).endswith(f"adapter_config.json: peft's PREFIX_TUNING is not supported; {remedy}")

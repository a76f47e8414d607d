"""What a run's name depends on: everything that can change its result, by content, and nothing else."""

import json

import pytest

from llmft.arguments.command_line import make, read
from llmft.arguments.config import Config
from llmft.arguments.flags import flags_of
from llmft.pipelines import distill, fine_tune, in_context
from llmft.pipelines.run_identity import method_name, named_flags, settings
from llmft.tasks.resolve import resolve_task

GROUPS = {"ft.py": fine_tune.GROUPS, "distill.py": distill.GROUPS, "eval.py": in_context.GROUPS}


def parsed(script, words):
    groups = GROUPS[script]
    values, given = read(groups, [*map(str, words), "--use_cpu"], "")
    return Config.of(make(groups, values)), given


def identity(script, *words):
    config, given = parsed(script, words)
    task = resolve_task(config.data)
    method = method_name("icl", config)
    return settings(config, task, method=method, model_name="toy", given=given, schedule={})


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text1": f"a {i}", "label": "ny"[i % 2]}) + "\n" for i in range(4)))
    return ["--train_file", tmp_path / "rows.jsonl", "--validation_file", tmp_path / "rows.jsonl", "--target_tokens", "Yes,No"]


@pytest.mark.parametrize(
    ("script", "words", "named"),
    [
        ("eval.py", "--output_dir o --cache_dir c --report_to none --group g --num_data_seeds 3 --task toy --count_flops", {}),
        ("eval.py", "--learning_rate 3 --num_train_epochs 2 --max_train_samples 16 --logging_steps 5 --warmup_steps 0.5", {}),
        ("eval.py", "--seed 2 --fp16 --max_batch_tokens 9", {"seed": 2, "fp16": True, "max_batch_tokens": 9}),
        ("ft.py", "--save_strategy epoch --push_to_hub --hub_token t --bitfit", {"bitfit": True}),
        ("ft.py", "--num_shots 4 --train_on demonstrations", {"num_shots": 4, "train_on": "demonstrations"}),
        ("ft.py", "--warmup_steps 3 --adam_beta1 0.5", {"warmup_steps": 3.0, "adam_beta1": 0.5}),
        ("distill.py", "--teacher_cache_dir none --topk 9 --support topk", {"topk": 9, "support": "topk"}),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_can_change_its_result(script, words, named):
    assert named_flags(*parsed(script, words.split())) == named


NO_NAME = """
    cache_dir data_dir dataset_cache_dir output_dir overwrite_output_dir
    model_name_or_path task_name train_file validation_file test_file out_of_domain_file eval_task_path paws_qqp_file
    cola_ood_file sample_indices_file metric deepspeed system_prompt
    rules run_code count_flops use_cpu deepspeed_stage disable_tqdm local_rank report_to run_name project
    log_level log_level_replica log_on_each_node logging_strategy logging_first_step logging_steps logging_nan_inf_filter
    dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor
    save_strategy save_steps save_total_limit save_on_each_node do_train do_eval debug skip_memory_metrics
    push_to_hub hub_model_id hub_token hub_private_repo hub_revision
    include_num_input_tokens_seen trackio_space_id trackio_bucket_id trackio_static_space_id
    wandb_project_name wandb_group_name wandb_run_name wandb_output_dir
"""
"""Flags of all scripts that do not change the result, or whose content is in the name in another form."""
NO_NAME_OF = {
    "ft.py": "context_file context_dir context_glob",
    "distill.py": """
        context_file context_dir context_glob instruction query_file retain_file teacher_cache_dir teacher_model_name_or_path
    """,
    "eval.py": """
        context_file context_dir context_glob instruction loss_mean group num_data_seeds max_train_samples
        accelerator_config activation_checkpointing activation_checkpointing_kwargs
        adam_beta1 adam_beta2 adam_epsilon dataloader_drop_last
        dataloader_in_order dataloader_multiprocessing_context ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
        ddp_find_unused_parameters ddp_static_graph ddp_timeout eval_delay eval_steps eval_strategy evaluate_elsewhere
        gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs learning_rate
        log_l2_dist_per_weight lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps
        num_train_epochs optim optim_args optim_target_modules per_device_train_batch_size
        restore_callback_states_from_checkpoint save_best_models save_final_model torch_empty_cache_steps
        train_sampling_strategy warmup_steps weight_decay
    """,
}


@pytest.mark.parametrize("script", GROUPS)
def test_every_other_flag_is_part_of_the_name(script):
    flags = {name: rules for group in GROUPS[script] for name, (_, rules) in flags_of(group).items() if rules.supported}
    config, _ = parsed(script, ["--train_on", "demonstrations"] if script == "ft.py" else [])
    named = named_flags(config, dict.fromkeys(flags, "{}"))
    assert flags.keys() - named.keys() == {*NO_NAME.split(), *NO_NAME_OF[script].split()}


def test_files_count_by_content_wherever_they_lie(rows, tmp_path):
    one = identity("eval.py", *rows)
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((tmp_path / "rows.jsonl").read_bytes())
    assert identity("eval.py", *[moved if word == tmp_path / "rows.jsonl" else word for word in rows]) == one
    moved.write_text((tmp_path / "rows.jsonl").read_text().replace("a 0", "b 0"))
    assert identity("eval.py", *[moved if word == tmp_path / "rows.jsonl" else word for word in rows]) != one
    (tmp_path / "scheduler.json").write_text('{"split_batches": false}')
    config = identity("ft.py", *rows, "--accelerator_config", tmp_path / "scheduler.json")
    assert config["given"]["accelerator_config"] == '{"split_batches": false}'


@pytest.mark.parametrize("script", ["eval.py", "ft.py"])
def test_the_order_of_labels_makes_another_run(rows, script):
    """A field of TrainingArguments is called label_names as well; it is no flag, and of training."""
    one, other = (identity(script, *rows, "--label_names", names) for names in ("n,y", "y,n"))
    assert one != other and one["given"]["label_names"] == "n,y"


@pytest.mark.parametrize(
    ("script", "words", "name"),
    [
        ("eval.py", "", "icl"),
        ("ft.py", "--method vanilla", "vanilla"),
        ("ft.py", "--use_adapter --adapter_type ia3", "pbft-ia3"),
        ("distill.py", "--targets hard --bitfit", "pseudo-label-bitfit"),
        ("distill.py", "", "distill"),
    ],
)
def test_a_method_is_named_by_what_is_learnt_and_what_is_trained(script, words, name):
    assert method_name("icl", parsed(script, words.split())[0]) == name

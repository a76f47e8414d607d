"""Every flag has its rules beside it, and they are kept: one checker reads them, and docs/errors.md has its messages."""

import re

import pytest

from llmft.arguments.checks import check, in_words, known, limits, parts_of
from llmft.arguments.command_line import read
from llmft.arguments.flags import Rules, default_of, flags_of
from llmft.errors import InputError
from llmft.pipelines import compose, distill, fine_tune, in_context, self_study
from tests.parsing import parse
from tests.pipelines.test_errors_document import ROWS, pattern

SCRIPTS = {"ft.py": fine_tune.GROUPS, "eval.py": in_context.GROUPS, "distill.py": distill.GROUPS}
SCRIPTS |= {"llmft.self_study": self_study.GROUPS, "llmft.compose": compose.GROUPS}
FLAGS = {script: {n: f for group in groups for n, f in flags_of(group).items()} for script, groups in SCRIPTS.items()}
ALL = {(script, name): FLAGS[script][name] for script in SCRIPTS for name in FLAGS[script]}
DEFAULTS = {script: {name: default_of(field) for name, (field, _) in flags.items()} for script, flags in FLAGS.items()}
REFUSED = """
    eval.py --max_eval_samples 0 | --max_eval_samples 0
    eval.py --train_file /nowhere.csv | --task toy: cannot be combined with --train_file; drop one of them
    eval.py --per_device_eval_batch_size 0 | --per_device_eval_batch_size 0
    ft.py --adapter_type ia3 | --adapter_type ia3: has no effect without --use_adapter
    ft.py --use_adapter --adapter_type ia3 --adapter_dim 4 | --adapter_dim 4: has no effect without --use_adapter --adapter_type
    ft.py --use_adapter --adapter_type parallel --lora_alpha 4 | --lora_alpha 4: has no effect without
    ft.py --use_adapter --lora_alpha -2 | --lora_alpha -2: must be 1 or more, or -1 for a scale of 1
    ft.py --max_steps -2 | --max_steps -2: must be 1 or more, or -1 to use --num_train_epochs
    ft.py --bitfit --head_only | --head_only True: cannot be combined with --bitfit (only one part can be trained)
    distill.py --use_cartridge --num_contexts 2 | 2 or more (it starts as the keys and values of one context)
    distill.py --use_soft_prompt --use_adapter | --use_adapter True: cannot be combined with --use_soft_prompt (only
    ft.py --bitfit --untie_embeddings | --untie_embeddings True: cannot be combined with --bitfit (it has no
    ft.py --bitfit --freeze_embeddings | --freeze_embeddings True: cannot be combined with --bitfit (it has no
    ft.py --use_soft_prompt --use_cartridge | --use_soft_prompt True: cannot be combined with --use_cartridge (only
    ft.py --cartridge_tokens 3 | --cartridge_tokens 3: has no effect without --use_cartridge
    ft.py --cartridge_frozen_tokens 2 | --cartridge_frozen_tokens 2: has no effect without --use_cartridge
    ft.py --use_cartridge --cartridge_tokens -1 | --cartridge_tokens -1: must be 0 or more
    ft.py --use_cartridge --cartridge_tokens 3 --activation_checkpointing | --activation_checkpointing True: cannot be combined
    ft.py --use_cartridge --cartridge_tokens 3 --gradient_checkpointing | --gradient_checkpointing True: cannot be combined with
    ft.py --num_soft_prompt_tokens 3 | --num_soft_prompt_tokens 3: has no effect without --use_soft_prompt
    ft.py --use_soft_prompt --num_soft_prompt_tokens 0 | --num_soft_prompt_tokens 0: must be 1 or more
    ft.py --classifier_type linear | --classifier_type linear: has no effect without --method vanilla
    ft.py --method vanilla --target_tokens No,Yes | --target_tokens No,Yes: has no effect without --method pbft
    ft.py --method vanilla --untie_embeddings | --untie_embeddings True: has no effect without --method pbft
    ft.py --train_on demonstrations --max_train_samples 4 | 4: has no effect without --train_on train
    ft.py --use_adapter --adapter_dim 0 | --adapter_dim 0
    ft.py --eval_strategy epoch --eval_steps 5 | --eval_steps 5.0: has no effect without --eval_strategy steps
    ft.py --save_best_models | --save_best_models True: has no effect without --eval_strategy epoch or steps
    ft.py --eval_delay 2 | --eval_delay 2.0: has no effect without --eval_strategy epoch or steps
    ft.py --loss t-few --target_tokens_logits_only | no effect without --method pbft --loss cross-entropy
    ft.py --train_on document --loss t-few | --loss t-few: cannot be combined with --train_on document (documents have no labels
    ft.py --train_on document --method vanilla | --method vanilla: cannot be combined with --train_on document (documents have
    ft.py --train_on document --target_tokens_logits_only | --target_tokens_logits_only True: cannot be combined with --train_on
    ft.py --num_train_epochs 0 | --num_train_epochs 0
    ft.py --num_shots 4 | --num_shots 4: has no effect without --train_on demonstrations
    eval.py --pattern_name gpt-3 --pattern {text1} | --pattern_name gpt-3: cannot be combined with --pattern; drop
    eval.py --max_seq_length 0 | --max_seq_length 0: must be 1 or more
    eval.py --no_balanced --sample_indices_file list.csv | --balanced False: cannot be combined with --sample_indices_file
    eval.py --no_shuffle --sample_indices_file list.csv | --shuffle False: cannot be combined with --sample_indices_file
    distill.py --instruction x | --instruction x: has no effect without --context instruction
    distill.py --context instruction --num_shots 4 | --num_shots 4: has no effect without --context demonstrations
    distill.py --context label --calibrate | --context label (a content-free query has no label to show)
    distill.py --context label --sample_indices_file list.csv | --sample_indices_file list.csv: has no effect
    distill.py --support topk --topk 0 | --topk 0: must be 1 or more
    distill.py --topk 9 | --topk 9: has no effect without --support topk
    distill.py --jsd_beta 2 --divergence jsd | --jsd_beta 2.0: must be above 0 and below 1; the ends are
    distill.py --num_contexts 0 | --num_contexts 0
    distill.py --context_schedule cycle | --context_schedule cycle: has no effect without --num_contexts 2
    distill.py --targets hard --support vocab | --support vocab: has no effect without --targets soft
    distill.py --task notes --answers student --support vocab | --support vocab: cannot be combined with --answers student or
    distill.py --task notes --answers mixed --ce_weight 1 | --ce_weight 1.0: cannot be combined with --answers
    distill.py --task notes --support sampled --divergence reverse | --divergence reverse: cannot be combined with --support
    distill.py --task notes --support sampled --teacher_mode online | --teacher_mode online: cannot be combined
    distill.py --multi_token_labels --ce_weight 1 | --multi_token_labels True: cannot be combined with --ce_weight (the
    distill.py --multi_token_labels --targets gold | True: cannot be combined with --targets hard or gold (which are
    distill.py --temperature 0 | --temperature 0.0
    distill.py --divergence jsd --jsd_beta 0 | --jsd_beta 0.0: must be above 0 and below 1
    distill.py --ce_weight -0.5 | --ce_weight -0.5: must be 0 or more
    distill.py --jsd_beta 0.1 | --jsd_beta 0.1: has no effect without --divergence jsd
"""
"""Command lines, and what is said of them. The tests of each rule that is declared cannot miss one that is not; these rows do."""
KINDS = {"value", "path", "folder", "text or path", "json", "steps", "secret"}


def refusal(script, **values):
    """The message for values of flags beside defaults, which must be one of docs/errors.md."""
    with pytest.raises(InputError) as caught:
        check(SCRIPTS[script], DEFAULTS[script] | values, all_groups=True)
    return str(caught.value)


def is_line(what, message):
    return re.fullmatch(pattern(ROWS[what]), message)


def other_value(field):
    """A value of a flag's kind that is not the default."""
    default, choices = default_of(field), field.metadata.get("choices")
    if choices:
        return next(choice for choice in choices if choice != default)
    if isinstance(default, bool):
        return not default
    kind, rules = str(field.type), field.metadata.get("rules", Rules())
    limit = rules.below
    if "float" in kind and limit is not None:
        return (default + limit) / 2
    return max((default or 0) + 1, rules.at_least or 0) if "int" in kind or "float" in kind else True if "bool" in kind else "a"


def such(script, condition, *, met):
    """Values with which a condition holds, or its first flag's part does not."""
    values = {}
    for name, wanted in parts_of(condition):
        default = DEFAULTS[script][name]
        met_value = (
            int(wanted[:-1])
            if wanted.endswith("+")
            else wanted.split("|")[0]
            if wanted
            else default or other_value(FLAGS[script][name][0])
        )
        values[name] = (
            met_value if met else False if isinstance(default, bool) else int(wanted[:-1]) - 1 if wanted.endswith("+") else None
        )
    return values


def conditions(rules_of):
    return [(script, name, c) for (script, name), (_, rules) in ALL.items() for c in there(script, rules_of(rules))]


def there(script, rule):
    return known(rule, FLAGS[script])


def test_a_flag_has_one_meaning():
    """Groups of one script share no name, and a kind is one of those that the checker and the run's name know."""
    for script, groups in SCRIPTS.items():
        assert len(FLAGS[script]) == sum(len(flags_of(group)) for group in groups)
    for (_, name), (field, rules) in ALL.items():
        assert len(field.metadata.get("help", "of transformers")) > 10, name
        assert rules.kind in KINDS and rules.evaluation in ("read", "ignored", "refused"), name
        if re.search(r"_(file|dir|path)$", name) and name != "overwrite_output_dir":
            assert rules.kind in ("path", "folder"), name
        for condition in (*rules.needs, *rules.excludes):
            assert any(there(script, [condition]) for script in SCRIPTS), (name, condition)


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_a_rule_that_is_there_stays(line):
    words, _, says = line.partition(" | ")
    script, *words = words.split()
    task = [] if "--task" in words else ["--task", "toy"]
    with pytest.raises(InputError) as caught:
        parse(SCRIPTS[script], [*task, *words, "--use_cpu"])
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_limits_are_kept(script):
    counted = 0
    for name, (_, rules) in FLAGS[script].items():
        for bound, step in ((rules.at_least, -1), (rules.above, 0), (rules.below, 0)):
            if bound is None:
                continue
            value, counted = bound + step * (1 if rules.or_value is None else 3), counted + 1
            message = refusal(script, **{name: value})
            assert message == f"--{name} {value}: must be {limits(rules)}"
            assert is_line("out of its range", message)
        if rules.or_value is not None:
            assert f", or {rules.or_value}" in limits(rules)
    assert counted > (2 if script == "llmft.compose" else 25)


@pytest.mark.parametrize(("script", "name", "condition"), conditions(lambda rules: rules.needs))
def test_what_nothing_would_read_is_refused_and_what_is_read_is_not(script, name, condition):
    field, rules = FLAGS[script][name]
    value, together = other_value(field), there(script, rules.needs)
    without = {n: v for c in together for n, v in such(script, c, met=False).items()}
    message = refusal(script, **without, **{name: value})
    shown = "***" if rules.kind == "secret" else value
    assert message == f"--{name} {shown}: has no effect without {in_words(together)}; add it, or drop this flag"
    assert is_line("a flag that nothing would read", message)
    needed = such(script, condition, met=True)
    for n in (flags := [*needed]):  # which grows by what these need themselves
        for met in there(script, FLAGS[script][n][1].needs):
            needed |= (more := such(script, met, met=True))
            flags += more.keys() - {*flags}
    check(SCRIPTS[script], DEFAULTS[script] | {name: value} | needed, all_groups=True)


@pytest.mark.parametrize(("script", "name", "condition"), conditions(lambda rules: rules.excludes))
def test_what_excludes_each_other_is_refused(script, name, condition):
    if condition == f"--{name}":
        return
    field, rules = FLAGS[script][name]
    values = {name: other_value(field)} | such(script, condition, met=True)
    for needed in there(script, rules.needs):
        values = such(script, needed, met=True) | values
    message = refusal(script, **values)
    assert "cannot be combined with" in message and is_line("two flags that exclude each other", message)


def test_eval_py_names_no_remedy_that_it_refuses():
    """What has no effect without a flag that eval.py refuses is refused like it, and before anything is said of that flag."""
    for name, (_, rules) in FLAGS["eval.py"].items():
        needed = {flag for condition in there("eval.py", rules.needs) for flag, _ in parts_of(condition)}
        if any(FLAGS["eval.py"][flag][1].evaluation == "refused" for flag in needed):
            assert rules.evaluation == "refused", name
    with pytest.raises(InputError, match=r"^--hub_token [*]{3}: eval.py does not train; leave it out"):
        check(SCRIPTS["eval.py"], DEFAULTS["eval.py"] | {"hub_token": "secret"}, all_groups=True, trains=False)


def help_of(script, capsys):
    with pytest.raises(SystemExit):
        read(SCRIPTS[script], ["--help"], "")
    return capsys.readouterr().out


def test_help_says_what_inherited_flags_need(capsys):
    text = " ".join(help_of("ft.py", capsys).split())
    assert "Only with --dataloader_num_workers 1 or more." in text
    assert "--no_balanced Turns --balanced off." in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_each_flag_once_under_one_name(script, capsys):
    text = help_of(script, capsys)
    names = re.findall(r"^  --(\w+)(?:, --\w+)?(?: |$)", text, re.MULTILINE)
    assert len(names) == len({*names}) and {*FLAGS[script]} >= {name for name in names if not name.startswith("no_")}
    refused = {"fsdp", "use_cache", "torch_compile"} & {*FLAGS[script]}
    assert not refused & {*names}
    assert "default: None" not in text and "--output-dir" not in text


def test_help_of_eval_py(capsys):
    text = help_of("eval.py", capsys)
    shown = {*re.findall(r"^  --(\w+)", text, re.MULTILINE)}
    assert shown >= {"use_cpu", "seed", "max_eval_samples", "num_shots", "context_file", "bf16", "eval_on_hans", "deepspeed"}
    assert not shown & {"report_to", "learning_rate", "save_steps", "push_to_hub", "eval_strategy"}
    text = " ".join(text.split())
    assert "--use_cpu [bool] Whether" in text
    assert "--task_name, --task str Task: toy, " in text
    assert "--seed int Seed of training. (default: 0)" in text
    assert "--target_tokens str A word for each label, in label order (comma- separated); default: the task's own. --" in text
    assert "--report_to str [str ...] Logging services (wandb, tensorboard, trackio), or none. (default: none)" in " ".join(
        help_of("ft.py", capsys).split()
    )

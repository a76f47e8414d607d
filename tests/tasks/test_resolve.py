import pytest

from llmft.errors import InputError
from llmft.tasks.table import OUT_OF_DOMAIN
from tests.tasks.conftest import resolve

OVERLAP = ["hans-lexical_overlap-entailment", "hans-lexical_overlap-contradiction"]
MISMATCHED = ["mnli_mm-entailment", "mnli_mm-contradiction"]


@pytest.mark.parametrize(
    ("arguments", "sets"),
    [
        ("", OVERLAP),
        ("--task rte", OVERLAP),
        ("--task mnli", OVERLAP),
        ("--task mnli-original", OVERLAP),
        ("--task qqp", ["paws-qqp"]),
        ("--task cola", ["cola-ood"]),
        ("--task sst2", []),
        ("--task ag_news", []),
        ("--task toy", []),
        ("--task rte --eval_task_name none", []),
        ("--task sst2 --eval_task_name none", []),
        ("--task rte --eval_task_name hans,mnli-mismatched", OVERLAP + MISMATCHED),
        ("--task rte --eval_on_mnli_mismatched", MISMATCHED),
        ("--task mnli --eval_on_hans --eval_on_mnli_mismatched True", OVERLAP + MISMATCHED),
        ("--task mnli --eval_on_hans False", OVERLAP),
        ("--task mnli --eval_task_name mnli-mismatched --eval_on_hans", MISMATCHED + OVERLAP),
        ("--task qqp --eval_on_paws_qqp", ["paws-qqp"]),
        ("--task cola --eval_on_cola_ood", ["cola-ood"]),
        ("--hans_heuristics constituent", ["hans-constituent-entailment", "hans-constituent-contradiction"]),
        ("--hans_subcase le_passive", ["hans-lexical_overlap-le_passive-entailment"]),
        ("--hans_heuristics all --hans_subcase sn_NP/Z", ["hans-subsequence-sn_NP/Z-contradiction"]),
    ],
)
def test_out_of_domain_sets(arguments, sets):
    assert [s.name for s in resolve(*arguments.split()).out_of_domain] == sets


def test_files_that_flags_name():
    for arguments, flag in (
        ("--task qqp --paws_qqp_file f", "--paws_qqp_file"),
        ("--task cola --eval_on_cola_ood --cola_ood_file f", "--cola_ood_file"),
        ("--task qqp --eval_task_name paws-qqp --eval_task_path f", "--eval_task_path"),
        ("--task rte --eval_task_name hans --eval_task_path f", "--eval_task_path"),
    ):
        task = resolve(*arguments.split())
        assert {(s.source.file, s.source.flag) for s in task.out_of_domain} == {("f", flag)}
        assert (task.train.source.file, task.in_domain.source.file) == (None, None)


def test_metrics_belong_to_the_sets_of_the_table():
    qqp, cola, rte = (resolve("--task", name) for name in ("qqp", "cola", "rte"))
    assert qqp.metrics_of("qqp") == qqp.metrics_of("paws-qqp") == ("f1",)
    assert cola.metrics_of("cola") == cola.metrics_of("cola-ood") == ("matthews_correlation",)
    assert rte.metrics_of("rte") == rte.metrics_of(OVERLAP[0]) == resolve("--task", "toy").metrics_of("toy") == ()


def test_sizes_that_splits_are_cut_to():
    assert [resolve("--task", name).subsample_splits for name in ("qqp", "mnli", "cola")] == [1000, 0, 0]
    assert resolve("--task", "qqp", "--subsample_splits", 0).subsample_splits == 0
    assert resolve("--task", "mnli", "--subsample_splits", 50).subsample_splits == 50


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--task sst2 --eval_task_name hans", "--eval_task_name hans: belongs to rte, mnli, mnli-original, not to sst2"),
        ("--task rte --eval_on_paws_qqp", "--eval_on_paws_qqp: belongs to qqp, not to rte"),
        ("--task qqp --eval_task_name paws-qqp,cola-ood", "--eval_task_name paws-qqp,cola-ood: belongs to cola, not to qqp"),
        ("--task toy --eval_on_hans", "--eval_on_hans: belongs to rte"),
        ("--eval_task_name anli", "--eval_task_name anli: no set 'anli'; choose from hans, mnli-mismatched, paws-qqp, cola-ood"),
        ("--eval_task_name none --eval_on_hans", "--eval_task_name none: --eval_on_hans asks for a set"),
        ("--eval_task_path f", "--eval_task_path f: name the set"),
        ("--eval_task_name hans,mnli-mismatched --eval_task_path f", "--eval_task_path f: is the file of one set"),
        ("--eval_task_name none --eval_task_path f", "--eval_task_path f: is the file of one set"),
        ("--task qqp --eval_task_name paws-qqp --eval_task_path f --paws_qqp_file g", "--eval_task_path f: --paws_qqp_file g"),
        ("--task rte --paws_qqp_file f", "--paws_qqp_file f: has no effect without --eval_task_name paws-qqp"),
        ("--task cola --eval_task_name none --cola_ood_file f", "--cola_ood_file f: has no effect without"),
        ("--task qqp --hans_heuristics all", "--hans_heuristics all: has no effect unless hans is evaluated"),
        ("--task rte --eval_task_name none --hans_subcase le_passive", "--hans_subcase le_passive: has no effect unless"),
        ("--hans_heuristics overlap", "--hans_heuristics overlap: no heuristic 'overlap'; choose from lexical_overlap"),
        ("--hans_subcase sn_NP/Z", "--hans_subcase sn_NP/Z: not a subcase of lexical_overlap; choose from le_around"),
        ("--subsample_splits -1", "--subsample_splits -1: must be 0"),
        ("--task toy --subsample_splits 5", "--subsample_splits 5: the rows of toy are generated"),
        ("--task hans", "--task hans: no such task"),
        ("--task custom", "--task custom: no such task"),
        ("--validation_file f", "--validation_file f: has no effect without --train_file"),
        ("--label_names a,b", "--label_names a,b: has no effect without --train_file"),
        ("--text1_column q", "--text1_column q: has no effect without --train_file"),
        ("--task rte --train_file f --validation_file g", "--task rte: cannot be combined with --train_file"),
        ("--train_file f", "--train_file f: has no effect without --validation_file"),
        ("--train_file f --validation_file g", "--train_file f: no such file"),
    ],
)
def test_arguments_that_do_not_fit_together(arguments, says):
    with pytest.raises(InputError) as caught:
        resolve(*arguments.split())
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_the_default_partners_fit_their_tasks():
    for entry in OUT_OF_DOMAIN.values():
        for name in entry.tasks:
            assert resolve("--task", name, "--eval_task_name", entry.name).out_of_domain

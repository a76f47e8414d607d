import pytest

from llmft.errors import InputError
from llmft.prompts.placeholders import take_off_placeholders


@pytest.mark.parametrize("token", ["</s>", "<unk>"])
@pytest.mark.parametrize("space", ["", " "])
def test_as_many_placeholders_as_virtual_tokens_are_taken_off(token, space):
    assert take_off_placeholders(token * 3 + space + "{text1} {text2} ?", 3) == "{text1} {text2} ?"


def test_a_pattern_without_placeholders_stays():
    assert take_off_placeholders(" {text1} <s> ?", 3) == " {text1} <s> ?"


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("</s></s> {text1} ?", "2 placeholders for --num_soft_prompt_tokens 3"),
        ("</s></s></s></s>{text1}", "4 placeholders"),
        ("{text1}</s></s></s>", "comes before the pattern"),
        ("</s><unk></s>{text1}", "comes before the pattern"),
    ],
)
def test_any_other_number_or_place_is_an_error(pattern, says):
    with pytest.raises(InputError, match=says):
        take_off_placeholders(pattern, 3)

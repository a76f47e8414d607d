import pytest

from llmft.errors import InputError
from llmft.tasks.listed import listed_demonstrations

POOL = [{"text1": f"t{i}", "text2": None, "label": i % 2, "idx": 10 * i} for i in range(40)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ",idx,label\n0,30,1\n1,10,1\n2,200,0\n"),
        ("a.csv", f"\ufeffidx,text1\r\n30.0,{'cat ' * 10**5}\r\n10.0,b\r\n200.0,c\r\n"),
        ("a.json", "[30, 10, 200]"),
    ],
)
def test_listed_demonstrations_stand_in_the_files_order(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert [row["idx"] for row in listed_demonstrations(POOL, str(tmp_path / name))] == [30, 10, 200]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "[30, 5]", "no training row has idx 5"),
        ("a.json", "[30, 30]", "is listed twice"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "{}", "cannot be read .*dict instead of a list"),
        ("a.csv", "number\n30\n", "cannot be read .*'idx'"),
        ("a.csv", "idx\nthirty\n", "cannot be read .'thirty' is not a whole number."),
        ("a.json", "[30, 10.5]", "cannot be read .10.5 is not a whole number."),
        ("a.csv", f"idx\n{'x' * 10**5}\n", "cannot be read .'xxx"),
    ],
)
def test_unusable_lists(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        listed_demonstrations(POOL, str(tmp_path / name))
    assert str(caught.value).startswith(f"--sample_indices_file {tmp_path / name}")
    assert len(str(caught.value)) < 500

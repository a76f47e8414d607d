import json
import multiprocessing
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from llmft.distillation.targets import support_targets
from llmft.errors import InputError
from llmft.runs.content_cache import ContentCache

KEY = {"weights": "abc", "prompts": ["ä", 2], "topk": None}
ARRAYS = {
    "logprobs": np.log(np.linspace(0.1, 0.9, 12, dtype=np.float32)).reshape(4, 3),
    "tokens": np.arange(8).reshape(4, 2),
    "empty": np.zeros((0, 3)),
    "scalar": np.float64(-np.inf),
}


def assert_same(found, expected=ARRAYS, metadata=None):
    arrays, notes = found
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert notes == (metadata or {})


def test_what_was_put_is_got(tmp_path, capsys):
    cache = ContentCache(tmp_path / "a" / "b")
    assert cache.get(KEY) is None
    cache.put(KEY, ARRAYS, {"made by": "a test"})
    assert_same(ContentCache(tmp_path / "a" / "b").get(dict(reversed(KEY.items()))), metadata={"made by": "a test"})
    assert cache.get(KEY | {"topk": 5}) is None
    assert not capsys.readouterr().err
    (file,) = os.listdir(tmp_path / "a" / "b")
    with safe_open(tmp_path / "a" / "b" / file, framework="np") as opened:
        assert json.loads(opened.metadata()["key"]) == KEY
        assert json.loads(opened.metadata()["metadata"]) == {"made by": "a test"}


def test_arrays_that_do_not_lie_in_order(tmp_path):
    cache, arrays = ContentCache(tmp_path), {"turned": np.arange(12.0).reshape(3, 4).T, "every other": np.arange(10)[::2]}
    cache.put(KEY, arrays)
    assert_same(cache.get(KEY), arrays)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    cache = ContentCache(tmp_path_factory.mktemp("cache"))
    cache.put(KEY, ARRAYS, {"a": 1})
    return cache, cache.path(KEY).read_bytes()


HARD = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data())
@HARD
def test_no_changed_byte_passes(stored, data, capsys):
    cache, content = stored
    place = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    capsys.readouterr()
    cache.path(KEY).write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
    found = cache.get(KEY)
    if found is None:
        warning = capsys.readouterr().err
        assert warning.startswith("warning: ") and warning.count("\n") == 1
        assert str(cache.path(KEY)) in warning
    else:  # white space between the header's parts carries nothing
        assert content[place : place + 1].isspace()
        assert_same(found, metadata={"a": 1})


@given(data=st.data())
@HARD
def test_no_part_of_a_file_passes(stored, data):
    cache, content = stored
    cache.path(KEY).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert cache.get(KEY) is None
    cache.path(KEY).write_bytes(content + data.draw(st.binary(min_size=1, max_size=9)))
    assert cache.get(KEY) is None


def test_a_damaged_file_is_replaced(tmp_path):
    cache = ContentCache(tmp_path)
    cache.path(KEY).write_bytes(b"nothing of the kind")
    assert cache.get(KEY) is None
    cache.put(KEY, ARRAYS)
    assert_same(cache.get(KEY))


def test_a_file_under_another_key_s_name_does_not_pass(tmp_path, capsys):
    cache, other = ContentCache(tmp_path), KEY | {"weights": "abd"}
    cache.put(other, ARRAYS)
    cache.path(other).rename(cache.path(KEY))
    assert cache.get(KEY) is None
    assert "holds another key" in capsys.readouterr().err


def test_targets_along_texts_are_small_and_stay_in_their_file(tmp_path):
    targets = support_targets(torch.randn(64, 2000), "topk", label_ids=(), topk=50)
    kept = {"logprobs": targets.logprobs, "tokens": targets.tokens}
    arrays = {name: np.tile(tensor.numpy(), (1000, 1)) for name, tensor in kept.items()}  # of 1,000 answers of 64 tokens
    cache = ContentCache(tmp_path)
    cache.put(KEY, arrays)
    size = cache.path(KEY).stat().st_size
    assert 10 * size < 300e6
    before = own_memory()
    found, _ = cache.get(KEY)
    np.testing.assert_array_equal(found["tokens"][-64:], kept["tokens"].numpy())
    assert own_memory() - before < size / 4


def own_memory():
    """Bytes of this process that lie in no file."""
    (kib,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) * 1024


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--teacher_cache_dir .*file/cache: cannot be written to"):
        ContentCache(tmp_path / "file" / "cache")
    cache = ContentCache(tmp_path / "gone", flag="--other_dir")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match=r"--other_dir .*gone: cannot be written to") as error:
        cache.put(KEY, ARRAYS)
    assert "\n" not in str(error.value)


def write_often(folder, start, failures):
    cache = ContentCache(folder)
    start.wait()
    for _ in range(50):
        cache.put(KEY, ARRAYS)
        if cache.get(KEY) is None:
            failures.put("a half-written file was seen")


def test_two_writers_at_once(tmp_path):
    context = multiprocessing.get_context("fork")  # which imports nothing again
    start, failures = context.Barrier(2), context.Queue()
    writers = [context.Process(target=write_often, args=(tmp_path, start, failures)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert failures.empty()
    assert os.listdir(tmp_path) == [ContentCache(tmp_path).path(KEY).name]
    assert_same(ContentCache(tmp_path).get(KEY))

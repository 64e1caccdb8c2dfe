"""What a loaded model leaves when it is gone."""

import gc
import random
from string import ascii_lowercase

import psutil
from tiny import byte_tokenizer

from layerprune.config.schema import ModelConfig
from layerprune.model.load import load_tokenizer
from layerprune.model.source import locate

MIB = 2**20


def test_a_tokenizer_that_is_gone_leaves_no_words(tiny_folder, tmp_path):
    source = locate(ModelConfig(path=str(tiny_folder)), tmp_path)
    # All letters, or they would be taken apart: each is a word of its own, short enough to keep.
    draw = random.Random(0)
    words = [["".join(draw.choices(ascii_lowercase, k=200)) for _ in range(2000)] for _ in range(4)]
    before = byte_tokenizer()(words[0])["input_ids"]
    resident = []
    for batch in words:
        assert load_tokenizer(source)([" ".join(batch)])["input_ids"]
        gc.collect()
        resident.append(psutil.Process().memory_info().rss)
    assert load_tokenizer(source)(words[0])["input_ids"] == before
    assert resident[-1] - resident[0] < 20 * MIB

"""Headers of GGUF files: read fast, and item for item as by the library's own reader."""

import numpy as np
import pytest
from gguf import GGUFEndian, GGUFReader, GGUFWriter

from layerprune.model.gguf_reader import FastGGUFReader, fast_headers

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("endian", GGUFEndian)
def test_fields_and_tensors_are_those_of_the_slow_reader(tmp_path, endian):
    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "llama", endianess=endian)
    writer.add_token_list(["", "a", "\u00f1", "longer than one token", "b" * 300])
    writer.add_token_scores([0.5, -1.0, 2.0])
    writer.add_token_types([1, 3])
    writer.add_array("llama.empty", [])
    writer.add_array("llama.flags", [True, False])
    writer.add_array("llama.numbers", [2**30, -1])
    writer.add_block_count(7)
    writer.add_tensor("token_embd.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fast, slow = FastGGUFReader(file), GGUFReader(file)
    assert list(fast.fields) == list(slow.fields)
    for name, field in slow.fields.items():
        assert fast.fields[name].types == field.types
        assert fast.fields[name].data == field.data
        assert fast.fields[name].contents() == field.contents()
        assert list(map(bytes, fast.fields[name].parts)) == list(map(bytes, field.parts))
    assert [tensor.name for tensor in fast.tensors] == ["token_embd.weight"]
    assert (fast.tensors[0].data == slow.tensors[0].data).all()


def test_the_library_has_its_own_reader_again_afterwards():
    import gguf

    own = gguf.GGUFReader, gguf.get_tensor_name_map
    with fast_headers():
        assert gguf.GGUFReader is not own[0]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == own

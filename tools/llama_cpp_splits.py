"""Write how llama.cpp splits texts of odd cases, for tests/model/test_pretokenizers.py.

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36, and unpack it
    python tools/llama_cpp_splits.py FOLDER/vendor/llama.cpp/src

It reads the names and their expressions from `llama-vocab.cpp`, and compiles them with llama.cpp's
own `unicode.cpp`, which needs g++.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from layerprune.model.pretokenizers import SPLITS
from layerprune.runtime.atomic_files import write_text

PAGE = Path(__file__).resolve().parent.parent / "tests" / "model" / "llama_cpp_splits.json"

TEXTS = (
    "\n   2", "1234567 a12 3.1415,92 12:30", "it's WE'LL don'T I'Ve", "  two  spaces\n\n\n  three",
    "tab\tand\r\nreturn \r\n", "été naïve Ærøskøbing", "漢字かなカナ 한글 中文\uff0c标点。",
    "Привет, мир! 123", "٣٤५२½²Ⅷ", "🙂👍🏽 family 👨\u200d👩\u200d👧",
    "x=1+2*3/(4-5)^6; y<=z && w!=`v`",
    "snake_case CamelCase HTTPServer", "e\u0301 combining", "(paren|bar.comma,)!?…", " leading",
    "trailing   ", "\u00a0nbsp\u3000wide", "def f(x):\n    return x  # 42\n",
    "price: $1,000.00 or 50%",
)  # fmt: skip

PROGRAM = """
#include "unicode.h"
#include <iostream>
int main() {
    const std::vector<std::vector<std::string>> all = {%s};
    const std::vector<std::string> texts = {%s};
    for (const auto & expressions : all)
        for (const auto & text : texts) {
            for (const auto & piece : unicode_regex_split(text, expressions, true))
                std::cout << piece << '\\x1f';
            std::cout << '\\n';
        }
}
"""


def expressions(vocab: str) -> dict[str, str]:
    """Return the C++ text of each name's list of expressions."""
    by_type: dict[str, str] = {}
    kinds: list[str] = []
    found: dict[str, str] = {}
    names: list[str] = []
    listed: list[str] | None = None
    for line in vocab.splitlines():
        if listed is not None:
            if line.strip() == "};":
                by_type |= dict.fromkeys(kinds, "\n".join(listed))
                kinds, listed = [], None
            else:
                listed.append(line)
        elif kind := re.match(r"\s*(?:case LLAMA_VOCAB_PRE_TYPE_(\w+)|default):", line):
            kinds.append(kind[1] or "DEFAULT")
        elif line.strip() == "regex_exprs = {":
            listed = []
        elif kind := re.match(r"\s*pre_type = LLAMA_VOCAB_PRE_TYPE_(\w+);", line):
            found |= dict.fromkeys(names, by_type.get(kind[1], ""))
            names = []
        names += re.findall(r'tokenizer_pre == "([^"]+)"', line)
    return found


def main() -> None:
    """Compile, run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    listed = expressions((source / "llama-vocab.cpp").read_text(encoding="utf-8"))
    names = sorted({*SPLITS, *GGUF_PRE_TOKENIZER_SPLITS})
    lists = ",\n".join(f"{{{listed[name]}\n}}" for name in names)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "main.cpp"
        program.write_text(
            PROGRAM % (lists, ", ".join(json.dumps(text, ensure_ascii=False) for text in TEXTS)),
            encoding="utf-8",
        )
        files = [program, source / "unicode.cpp", source / "unicode-data.cpp"]
        command = ["g++", "-std=c++17", f"-I{source}", *map(str, files), "-o", f"{folder}/main"]
        subprocess.run(command, check=True)
        done = subprocess.run([f"{folder}/main"], check=True, capture_output=True, text=True)
    lines = iter(done.stdout.split("\n"))
    splits = {name: [next(lines).split("\x1f")[:-1] for _ in TEXTS] for name in names}
    rows = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(splits[name], ensure_ascii=False)}" for name in names
    )
    write_text(PAGE, f'{{"texts": {json.dumps(TEXTS)},\n"splits": {{\n{rows}\n}}}}\n')


if __name__ == "__main__":
    main()

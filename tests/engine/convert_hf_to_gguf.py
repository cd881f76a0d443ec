"""llama.cpp's converter, told how pirate-tiny's tokenizer splits text.

It knows a tokenizer by the ids that it gives a sample text, so it can know none that was trained here.
"""

import importlib
import os
import runpy
import sys
from pathlib import Path

CHECKOUT = Path(os.environ["LLAMA_CPP_DIR"])
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "gguf-py")]

importlib.import_module("conversion.base").TextModel.get_vocab_base_pre = lambda _self, _tokenizer: "qwen2"
sys.argv[0] = str(CHECKOUT / "convert_hf_to_gguf.py")
runpy.run_path(sys.argv[0], run_name="__main__")

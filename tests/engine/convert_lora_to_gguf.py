"""llama.cpp's converter of adapters, where the one of models is told something: it needs to be told nothing."""

import os
import runpy
import sys
from pathlib import Path

CHECKOUT = Path(os.environ["LLAMA_CPP_DIR"])
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "gguf-py")]
sys.argv[0] = str(CHECKOUT / "convert_lora_to_gguf.py")
runpy.run_path(sys.argv[0], run_name="__main__")

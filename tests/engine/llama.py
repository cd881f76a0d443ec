"""Ask a GGUF in llama.cpp's own server (``pip install xllamacpp``): prompts, their tokens, and greedy answers.

``llama.py GGUF QUESTIONS.json`` prints, for each conversation, ``{"prompt", "ids", "answer"}``.
"""

import importlib
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve the model on a free port and ask it over HTTP, as Ollama does."""
    xllamacpp = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.n_ctx = 256
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)

    def post(path: str, body: dict[str, Any]) -> Any:
        url, kind = server.listening_address + path, {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), kind)  # noqa: S310 - our own server's
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - likewise
            return json.load(answer)

    rows = []
    for messages in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        prompt = post("/apply-template", {"messages": messages})["prompt"]
        ids = post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
        greedy = {"temperature": 0, "n_predict": 40, "return_tokens": True, "cache_prompt": False}
        done = post("/completion", {"prompt": prompt, **greedy})
        rows.append({"prompt": prompt, "ids": ids, "answer": done["tokens"], "ended": done["stop_type"]})
    print("\n" + json.dumps(rows), flush=True)  # noqa: T201 - its result


if __name__ == "__main__":
    main()

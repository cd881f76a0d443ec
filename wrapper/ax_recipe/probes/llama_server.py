"""Serve a GGUF by llama.cpp's server in the package xllamacpp: ``llama_server.py GGUF PORT CONTEXT [ADAPTER]``.

It answers on 127.0.0.1 until it is ended, as the program llama-server does.
"""

import signal
import sys
from typing import Any

import xllamacpp

ENDS = {signal.SIGTERM, signal.SIGINT}


def parameters(gguf: str, port: str, context: str, adapter: str | None = None) -> Any:
    """What llama-server would be told on its command line."""
    told = xllamacpp.CommonParams()
    told.model.path = gguf
    told.hostnames = ["127.0.0.1"]
    told.port = int(port)
    told.n_ctx = int(context)
    told.n_parallel = 1
    told.warmup = False
    if adapter:
        told.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    return told


if __name__ == "__main__":
    # Blocked before the server has threads, they arrive here alone, and even where the parent ignores them (nohup).
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    server = xllamacpp.Server(parameters(*sys.argv[1:]))
    print(server.listening_address, flush=True)
    signal.sigwait(ENDS)

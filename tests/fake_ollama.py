"""A server with Ollama's API, as strict as the real one, that can also fail like it.

It renders with our reading of Go templates, counts a word as a token, and answers every chat with ``Arr.``. As
``0.33.0`` it makes GGUFs and quantises them; from 0.34.1 on it takes them as they are (its server/create.go of 0.40).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ax_recipe.ship.gotemplate import GoTemplateError, render

CHATML = (
    "{{ range $i, $m := .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
)
TYPES = {"F32", "F16", "BF16", "Q8_0", "Q4_K_S", "Q4_K_M"}
FOR_MLX = {"Gemma4ForConditionalGeneration", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"}


Answer = Callable[[dict[str, Any], str, dict[str, Any]], tuple[list[str], str, int, int]]
"""Of a model, a prompt and options: the parts of the answer, why it ended, the prompt's tokens and its own."""


@dataclass
class Server:
    """What the server holds, what it was asked, and how it is to fail.

    ``failure``: "late error" (a line after HTTP 200), "no success" (the stream ends), "dies" (the connection breaks
    while creating), "dies on blob"; and of the live model: "chatml" (renders another template), "hidden" (shows no
    prompts), "double bos" (a token more), "endless" (answers up to num_predict), "mute" (answers nothing), "crash"
    (the runner dies). It fails ``times`` over, then no more. A real engine may ``answer`` in its place.
    """

    version: str = "0.33.0"
    failure: str = ""
    times: int = 1 << 30
    blobs: dict[str, bytes] = field(default_factory=dict)
    answer: Answer | None = None
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    @property
    def makes(self) -> bool:
        """Whether it is of those that still make models."""
        return tuple(map(int, self.version.split("-")[0].split("."))) < (0, 34, 1)

    def fails(self, *failures: str) -> bool:
        """Whether it is to fail so now."""
        if self.failure not in failures or not self.times:
            return False
        self.times -= 1
        return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> Server:
        return self.server.state  # type: ignore[attr-defined, no-any-return]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server gives it
        pass

    def _read(self) -> bytes:
        if "Content-Length" not in self.headers:
            raise AssertionError("a body needs a Content-Length")
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, value: object = None) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _lines(self, values: list[dict[str, Any]], *, cut: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for value in values:
            line = json.dumps(value).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        if cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _whole(self, name: str) -> str:
        return name if ":" in name else f"{name}:latest"

    def _model(self, body: dict[str, Any]) -> dict[str, Any] | None:
        name = str(body.get("model", ""))
        found = self.state.models.get(self._whole(name))
        if found is None:
            self._answer(404, {"error": f"model '{name}' not found"})
        return found

    def do_GET(self) -> None:
        self.state.asked.append(("GET", self.path))
        known: dict[str, Any] = {"/api/version": {"version": self.state.version}}
        known["/api/ps"] = {"models": [{"name": name, "size": 5 << 20} for name in sorted(self.state.loaded)]}
        self._answer(200 if self.path in known else 404, known.get(self.path))

    def do_HEAD(self) -> None:
        self.state.asked.append(("HEAD", self.path))
        self._answer(200 if self.path.rpartition("/")[2] in self.state.blobs else 404)

    def do_DELETE(self) -> None:
        self.state.asked.append(("DELETE", self.path))
        body = json.loads(self._read())
        if self._model(body) is not None:
            self.state.models.pop(self._whole(body["model"]))
            self.state.loaded.discard(self._whole(body["model"]))
            self._answer(200)

    def do_POST(self) -> None:
        self.state.asked.append(("POST", self.path))
        if self.path.startswith("/api/blobs/"):
            self._blob(self.path.rpartition("/")[2])
            return
        body = json.loads(self._read())
        {
            "/api/create": self._create,
            "/api/chat": self._chat,
            "/api/copy": self._copy,
            "/api/show": self._show,
            "/api/generate": self._generate,
        }[self.path](body)

    def _blob(self, digest: str) -> None:
        if self.state.fails("dies on blob"):
            self.rfile.read(10)
            self.close_connection = True
            self.connection.close()
            return
        content = self._read()
        if digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
            self._answer(400, {"error": "digest mismatch"})
            return
        known = digest in self.state.blobs
        self.state.blobs[digest] = content
        self._answer(200 if known else 201)

    def _refusal(self, body: dict[str, Any]) -> str | None:
        files = {**body.get("files", {}), **body.get("adapters", {})}
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)*(:[\w.-]+)?", str(body.get("model", ""))):
            return "invalid model name"
        if not body.get("files") and not body.get("from"):
            return "neither 'from' or 'files' was specified"
        if any(name.startswith("/") or ".." in name.split("/") or set(name) & set("\\:") for name in files):
            return "file path must be relative"
        if any(digest not in self.state.blobs for digest in files.values()):
            return "blob not found"
        if any(name.endswith(".gguf") and self.state.blobs[of][:4] != b"GGUF" for name, of in files.items()):
            return "invalid file magic"
        refusal = self._old_refusal(body) if self.state.makes else self._new_refusal(body)
        if refusal:
            return refusal
        try:
            render(body.get("template") or "", [{"role": "user", "content": "x"}])
        except GoTemplateError as error:
            return f"template error: {error}"
        return None

    def _old_refusal(self, body: dict[str, Any]) -> str | None:
        return "unsupported quantization type" if body.get("quantize", "F16").upper() not in TYPES else None

    def _new_refusal(self, body: dict[str, Any]) -> str | None:
        if "typical_p" in (body.get("parameters") or {}):
            return "typical_p is deprecated and cannot be set as a model parameter; pass it as a request option instead"
        if body.get("adapters"):
            return "LoRA adapters are no longer supported"
        if any(name.endswith(".safetensors") for name in body.get("files", {})):
            if body.get("quantize", "int4") not in ("int4", "int8", "nvfp4", "mxfp4", "mxfp8"):
                return f'unsupported quantize type "{body["quantize"]}"'
            config = json.loads(self.state.blobs[body["files"]["config.json"]])
            name = config["architectures"][0]
            return None if name in FOR_MLX else f'unsupported MLX architecture: model "{name}"'
        if "quantize" in body:
            return "create-time quantization is only supported for safetensors imports"
        return None

    def _create(self, body: dict[str, Any]) -> None:
        refusal = self._refusal(body)
        if refusal:
            self._answer(400, {"error": refusal})
            return
        steps: list[dict[str, Any]] = [{"status": "converting model"}]
        if "quantize" in body:
            steps.append({"status": f"quantizing F16 model to {body['quantize']}", "completed": 5, "total": 10})
        if self.state.failure == "late error":
            self._lines([*steps, {"error": 'unsupported architecture "MistralForCausalLM"'}])
        elif self.state.fails("no success", "dies"):
            self._lines(steps, cut=self.state.failure == "dies")
        else:
            self.state.models[self._whole(body["model"])] = body
            self._lines([*steps, {"status": "writing manifest"}, {"status": "success"}])

    def _copy(self, body: dict[str, Any]) -> None:
        found = self._model({"model": body["source"]})
        if found is not None:
            self.state.models[self._whole(body["destination"])] = found
            self._answer(200)

    def _show(self, body: dict[str, Any]) -> None:
        model = self._model(body)
        if model is not None:
            told = {name: of if isinstance(of, list) else [of] for name, of in model.get("parameters", {}).items()}
            lines = [f"{name:<30} {json.dumps(each)}" for name, of in told.items() for each in of]
            self._answer(200, {"template": model.get("template", ""), "parameters": "\n".join(lines)})

    def _generate(self, body: dict[str, Any]) -> None:
        if self._model(body) is not None:
            assert body["keep_alive"] == 0
            self.state.loaded.discard(self._whole(body["model"]))
            self._answer(200, {"model": body["model"], "done": True, "done_reason": "unload"})

    def _chat(self, body: dict[str, Any]) -> None:
        model = self._model(body)
        if model is None:
            return
        messages = body["messages"]
        if model.get("system") and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": model["system"]}, *messages]
        self.state.loaded.add(self._whole(body["model"]))
        failure = self.state.failure
        prompt = render(CHATML if failure == "chatml" else model["template"], messages)
        if body.get("_debug_render_only"):
            shown = {} if failure == "hidden" else {"_debug_info": {"rendered_template": prompt}}
            self._answer(200, {"model": body["model"], **shown})
            return
        if failure == "crash":
            self._answer(500, {"error": "llama runner process has terminated: signal: killed"})
            return
        parts, reason, tokens, made = (self.state.answer or self._words)(model, prompt, body.get("options", {}))
        words = [{"message": {"role": "assistant", "content": text}, "done": False} for text in parts]
        end = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason}
        counts = {"prompt_eval_count": tokens, "eval_count": made}
        self._lines(words if failure == "no success" else [*words, {**end, **counts}])

    def _words(self, _: dict[str, Any], prompt: str, options: dict[str, Any]) -> tuple[list[str], str, int, int]:
        failure = self.state.failure
        tokens = len(prompt.split()) + (failure == "double bos")
        if failure == "endless":
            return ["ye "] * options["num_predict"], "length", tokens, options["num_predict"]
        parts = [] if failure == "mute" else ["Ar", "r."]
        return parts, "stop", tokens, len(parts)


@contextmanager
def serve(**settings: Any) -> Iterator[Server]:
    """A running server on a free port of this machine."""
    state = Server(**settings)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    httpd.state = state  # type: ignore[attr-defined]
    httpd.daemon_threads = True
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()

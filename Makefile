# The verbs of a contributor. `make demo` and `make test` do all their set-up themselves.
PYTHON ?= python3
# The demo needs no GPU: this torch is what CI tests with. A GPU box is set up by environment.yml instead.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# llama.cpp's converters for the tests: no wheel has them, but the source package of its Python binding does.
LLAMA_CPP := llama-cpp-python==0.3.36
# pip compiles every file that it installs, torch's thousands among them; python compiles those it needs.
PIP := $(BIN)/python -m pip --disable-pip-version-check
# ... and keeps what it compiled, whatever the shell says: else each of hundreds of starts compiles all of it again.
unexport PYTHONDONTWRITEBYTECODE
# The quick tests wait for processes about as long as they compute.
TWICE := $$((2 * $$(getconf _NPROCESSORS_ONLN)))

.PHONY: demo test quick far faults recipes format bench clean

demo: $(VENV)/axolotl  ## the whole way, from a text to an answering model: no GPU, no hub, no Ollama
	$(BIN)/ax-recipe run pirate-tiny

test: $(VENV)/dev $(VENV)/llama.cpp  ## everything that CI checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile

quick: $(VENV)/dev  ## the tests that need neither Axolotl nor many processes, with fewer examples
	$(BIN)/pytest -m "not axolotl and not slow" --hypothesis-profile quick -n $(TWICE) --dist worksteal

recipes: $(VENV)/dev  ## every recipe trains a tiny model of its architecture, on the CPU: five minutes
	AX_RECIPE_LIBRARY=all $(BIN)/pytest tests/test_library.py -m axolotl -v

faults: $(VENV)/dev  ## every fault, injected into real processes: prints docs/faults.md
	$(BIN)/python tests/injected.py

far: $(VENV)/dev  ## several machines: a real torchrun, Ray and, where root has installed them, Slurm, GlusterFS, sshfs
	$(PIP) install --quiet --no-compile --editable '.[ray]'
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/pytest tests/test_nodes.py tests/test_mirror*.py tests/test_shared_files.py tests/test_slurm.py tests/test_far.py -v -rs

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev
	$(BIN)/python benchmarks/startup.py

clean:
	rm -rf $(VENV) build dist runs .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

$(VENV)/axolotl: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --no-compile $(TORCH) --editable '.[axolotl]'
	touch $@

$(VENV)/dev: $(VENV)/axolotl
	$(PIP) install --quiet --no-compile $(TORCH) --editable '.[axolotl]' --group dev
	touch $@

$(VENV)/llama.cpp: | $(BIN)/python
	$(PIP) download --quiet --no-deps --no-binary llama-cpp-python --dest $(VENV)/sdist $(LLAMA_CPP)
	mkdir -p $@.part
	tar -xzf $(VENV)/sdist/llama_cpp_python-*.tar.gz -C $@.part --strip-components=3 --wildcards \
		'*/vendor/llama.cpp/convert_*_to_gguf.py' '*/vendor/llama.cpp/conversion/*' '*/vendor/llama.cpp/gguf-py/gguf/*' \
		'*/vendor/llama.cpp/LICENSE'
	rm -r $(VENV)/sdist
	mv $@.part $@

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# torch is named exactly because a range would let pip choose a CUDA build of several gigabytes.
TORCH ?= torch==2.13.0

# Whole files go to workers, so that what a file's tests share is made once; one worker more than processors, as some
# tests wait for others, for locks and for clocks.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20

.PHONY: help demo check quick test lint docs bench server serve web wheels try-wheel fuzz fuzz-native fuzz-python clean

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# A stamp per set of extras; any change to the sources or the build makes the package stale.
SOURCES := $(shell find csrc cmake pocketnet_fast -type f -not -path '*/__pycache__/*' 2>/dev/null) CMakeLists.txt pyproject.toml

$(VENV)/.installed-%: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --quiet "$(TORCH)" "scikit-build-core>=0.11" "pybind11>=2.13" "cmake>=3.24" "ninja>=1.11"
	$(BIN)/pip install --quiet --no-build-isolation ".[$*]"
	rm -f $(VENV)/.installed-*
	touch $@

demo: $(VENV)/.installed-demo ## two real portraits and altered copies: who is who, in Python and in C++
	$(BIN)/python examples/demo.py

# Lint takes one core while tests take both.
check: $(VENV)/.installed-test,lint ## lint, types and the quick tests
	$(MAKE) --jobs 2 --output-sync lint quick

quick: $(VENV)/.installed-test,lint ## the quick tests alone
	$(PYTEST) -m "not slow"

test: $(VENV)/.installed-test,lint lint ## lint, types and every test
	$(PYTEST)

lint: $(VENV)/.installed-test,lint ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'include/*' 'examples/*.c' 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inl' 'examples/*.h' 'examples/*.cpp' 'fuzz/*.h' 'fuzz/*.cpp' 'server/*.h' 'server/*.cpp' | xargs $(BIN)/clang-format --dry-run -Werror

# The site, in build/docs; read it from there, or with its search: python3 -m http.server -d build/docs
docs: $(VENV)/.installed-docs ## the documentation as a site, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed-bench ## time this package against its peers
	$(BIN)/python benchmarks/run.py

# Seconds for each fuzzer, which begins with what was found before and keeps what it finds in build/fuzz.
TIME ?= 60
FUZZ_CXX ?= clang++
NATIVE_FUZZERS ?= model_file photo calls programs images exported_records inference_request gallery_file http_requests
PYTHON_FUZZERS ?= $$($(BIN)/python fuzz/python/run.py --list)

fuzz: fuzz-native fuzz-python ## every fuzzer for TIME=60 seconds: clang with libFuzzer, and atheris

fuzz-native: ## the fuzzers in C++: NATIVE_FUZZERS="photo calls"
	cmake -S . -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=$(FUZZ_CXX) -DPNF_TORCH=OFF -DPNF_TRAINING=OFF \
	  -DPNF_SANITIZE=address,undefined -DPNF_FUZZ=ON
	cmake --build build/fuzz --target fuzzers
	build/fuzz/fuzz/write_seeds build/fuzz/fuzz/seeds
	for target in $(NATIVE_FUZZERS); do \
	  mkdir -p build/fuzz/corpora/$$target; \
	  build/fuzz/fuzz/$${target}_fuzzer -max_total_time=$(TIME) -timeout=20 -print_final_stats=1 -max_len=66000 \
	    $$(ls fuzz/dictionaries/$$target.dict 2>/dev/null | sed 's/^/-dict=/') -artifact_prefix=build/fuzz/$$target- \
	    build/fuzz/corpora/$$target fuzz/corpora/$$target build/fuzz/fuzz/seeds || exit 1; \
	done

fuzz-python: $(VENV)/.installed-fuzz ## the fuzzers of readers in Python: PYTHON_FUZZERS="image onnx"
	for target in $(PYTHON_FUZZERS); do \
	  $(BIN)/python fuzz/python/run.py $$target $(TIME) build/fuzz/python/$$target || exit 1; \
	done

# What is published, in dist/: the source distribution, a wheel for each CPython of release/pythons.txt on PATH, and
# libpocketnet for this processor and for those whose compiler is there (g++-aarch64-linux-gnu).
wheels: $(VENV)/.installed-release ## wheels, the source distribution and libpocketnet's archives, in dist/
	rm -rf dist
	$(BIN)/python release/build.py dist

# The wheel where no compiler is, in a new environment of PYTHON; TORCH= takes another torch.
try-wheel: $(VENV)/.installed-release ## install dist's wheel as users do, and verify two photos
	$(BIN)/python release/try_wheel.py dist --python $(PYTHON) --torch "$(TORCH)"

# The service takes LibTorch and the operators from the environment; docs/server.md names the Debian packages.
server: $(VENV)/.installed-serve ## build the face service
	prefix=$$($(BIN)/pocketnet cmake --torch) && \
	  $(BIN)/cmake -S server -B build/server -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DCMAKE_PREFIX_PATH="$$prefix"
	$(BIN)/cmake --build build/server

build/server/faces.pt: $(VENV)/.installed-serve
	mkdir -p build/server
	$(BIN)/pocketnet export --photos -o $@

serve: server build/server/faces.pt ## start the face service with the weights that ship
	build/server/pocketnet_server --model build/server/faces.pt

# The package of web/ with its modules, and the page with its network; docs/embedding.md names the Debian packages.
web: $(VENV)/.installed-serve ## the browser's package and its page
	$(BIN)/cmake -S . -B build/wasm -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DCMAKE_TOOLCHAIN_FILE=cmake/wasm32.cmake -DPNF_TORCH=OFF -DPNF_TRAINING=OFF
	$(BIN)/cmake --build build/wasm
	$(BIN)/cmake --install build/wasm --component web --prefix web
	$(BIN)/pocketnet export --photos -o web/faces.pnf

clean: ## remove what was built
	rm -rf build dist $(VENV)/.installed-*

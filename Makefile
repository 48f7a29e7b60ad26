# Two commands: `make demo` and `make test`. Both set everything up by themselves.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.runs
STAMP := $(VENV)/.installed
RADIOGRAPHS ?= ../shared/data/radiographs
OUTPUT ?= build/radiograph-anatomy
WORKERS ?= $(shell cores=$$(nproc); echo $$((cores > 4 ? 4 : cores)))

.PHONY: demo test check bench bench-results bench-front-door bench-audit bench-web dashboard-pictures conformance conformance-matrix traceability viewers image \
  fault-matrix damage-table train-default-bundle evaluate suitability-experiment monai system-packages clean

demo: $(READY)
	$(BIN)/dicom-gam demo --output demo-output

test: $(STAMP) system-packages
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)  # the workers share the cores already

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docker/check.py

bench: $(STAMP) bench-results bench-audit bench-web bench-front-door
	$(BIN)/python -m tests.benchmarks.bench_verification --json bench.json $(BENCH_ARGS)
	$(BIN)/python -m tests.benchmarks.bench_verification --methods --quick --json bench-methods.json

# CPU time of each result object, and where it goes.
bench-results: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.bench_results --json bench-results.json

# The audit log: a thousand mutations, each found and named; records a second beside bare SHA-256.
bench-audit: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_audit --json bench-audit.json

# Server time of every page of the dashboard over 100,000 jobs.
bench-web: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.bench_web --json bench-web.json

# Receiving beside storescp, Orthanc and pynetdicom; a soak; kills; a million mutated streams. Takes more than an hour.
bench-front-door: $(STAMP) system-packages
	$(BIN)/python -m tests.benchmarks.bench_front_door --json bench-front-door.json $(FRONT_DOOR_ARGS)
	$(BIN)/python -m tests.benchmarks.bench_soak --images 20000 --json bench-soak.json
	$(BIN)/python -m tests.benchmarks.bench_kill --kills 200 --json bench-kill.json
	$(BIN)/python -m tests.benchmarks.fuzz_front_door --cases 1000000 --json bench-fuzz.json

# The conformance statement, the codes, the table of settings and the traceability table, from code.
conformance: $(STAMP)
	$(BIN)/python -m conformance.statement
	$(BIN)/python -m conformance.write_settings_table
	$(BIN)/python -m conformance.traceability

# Every object, kind of source, verdict and oddity before every validator, and through Orthanc and back.
conformance-matrix: $(STAMP) system-packages
	$(BIN)/python -m tests.conformance.matrix $(MATRIX_ARGS)

# Which test shows which requirement, and what it said last: runs every test.
traceability: $(STAMP) system-packages
	$(BIN)/python -m conformance.traceability
	-$(MAKE) test PYTEST_ARGS="--requirements-record=conformance/requirements-record.json"
	$(BIN)/python -m conformance.traceability

# What readers see: OHIF, Orthanc's preview, dsr2html, dcmj2pnm. Needs node, npm and chromium.
viewers: $(STAMP) system-packages
	$(BIN)/python -m tests.viewers.pictures build/viewers

# Builds the image with Docker, Podman or buildah, and tries it out. COMPUTE=cpu needs TORCH_INDEX, see docker/README.md.
image:
	bash docker/build-image.sh

# Every page of the dashboard in chromium, desktop and tablet, light and dark, with what axe-core finds.
dashboard-pictures: $(STAMP) system-packages
	$(BIN)/python -m tests.web.pictures build/dashboard

# What the running service answers to each fault, and what becomes of damaged images: two generated documents.
fault-matrix: $(STAMP) system-packages
	$(BIN)/python -m tests.faults.table > build/FAULTS.md && mv build/FAULTS.md conformance/FAULTS.md
damage-table: $(STAMP)
	$(BIN)/python -m conformance.damage_table

# Needs the collected radiographs; the result is compared and then copied by hand into dicom_gam/bundles.
train-default-bundle: $(STAMP)
	mkdir -p build
	$(BIN)/python conformance/default_bundle/prepare.py $(RADIOGRAPHS) > build/images.csv
	$(BIN)/dicom-gam train conformance/default_bundle/train.toml build/images.csv --output $(OUTPUT)

# The evidence for the default bundle, on the images that it was not made from.
evaluate: $(STAMP)
	mkdir -p build
	$(BIN)/python conformance/default_bundle/prepare.py $(RADIOGRAPHS) > build/images.csv
	$(BIN)/python conformance/default_bundle/deal.py build/images.csv > build/dealt.csv
	$(BIN)/dicom-gam evaluate radiograph-anatomy build/dealt.csv --output build/evaluation $(EVALUATE_ARGS)

# Does `dicom-gam suitability` tell sound networks from unsound ones? Trains a dozen small networks.
suitability-experiment: $(STAMP)
	mkdir -p build
	$(BIN)/python conformance/default_bundle/prepare.py $(RADIOGRAPHS) > build/images.csv
	$(BIN)/python conformance/suitability/experiment.py build/images.csv --output build/suitability $(SUITABILITY_ARGS)

# The MONAI Deploy operators on the real App SDK, in an environment of its own: half a gigabyte. With
# MONAI_MORE="highdicom monai" (6 GB) the SDK's own DICOM operators are there too.
monai: $(STAMP)
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python build/monai
	$(BIN)/uv pip install --quiet --python build/monai/bin/python 'monai-deploy-app-sdk>=4,<5' 'holoscan-cli>=4,<=4.2' \
	  'pydicom>=3.0.1' pydicom-data $(MONAI_MORE) || \
	  { echo "The App SDK can't be installed. It needs Linux on x86_64 with glibc 2.35, Python 3.10 to 3.13, and a package index."; exit 1; }
	build/monai/bin/python -m tests.plugins.monai_check $(BIN)/dicom-gam

# The node alone; and with it what tests and checks need.
$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	  { echo "There is no $(PYTHON) here. On Debian or Ubuntu, as root: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dicom_gam needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module. On Debian or Ubuntu, as root: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --python $(BIN)/python -e . || $(BIN)/python -m pip install -e .  # pip knows the site's pip.conf
	touch $@

$(STAMP): $(READY)
	$(BIN)/uv pip install --python $(BIN)/python -e '.[test,check]'
	touch $@

system-packages:
	@bash tests/system-packages.sh

clean:
	rm -rf $(VENV) build demo-output bench*.json

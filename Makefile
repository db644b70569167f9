# Every command of the project. `make help` lists them.
# The Python of the virtual environments; if none is named, the first on this machine that fits.
PYTHON ?=
# TENSORFLOW=1 serves with TensorFlow beside LiteRT: for SavedModels that have no twin.
TENSORFLOW ?=
# SERVING_OTEL=1, the service's own setting, needs OpenTelemetry as well.
# HEIC=1: training reads the photos of iPhones, by a decoder under other licences: docs/adr/0030.
TRAIN := .venv/train$(if $(filter 1 true,$(HEIC)),-heic)
SERVE := .venv/$(if $(TENSORFLOW),full,serve)$(if $(filter 1 true,$(SERVING_OTEL)),-otel)
# Servers that `make bench` measures beside ours; their packages conflict with each other's and ours.
YARDSTICKS := bench-fastapi bench-mlserver bench-bentoml

# Set but empty means unset: compiled code is kept, so that the second start is quicker than the first.
export PYTHONDONTWRITEBYTECODE :=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help serve train folder exercises test lint audit format protos lock up down e2e fuzz bench soak clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(SERVE)/installed ## serve the models in models/ on http://127.0.0.1:8501 (settings: SERVING_* variables; TENSORFLOW=1 adds TensorFlow)
	@exec $(SERVE)/bin/python -m service

train: .venv/train/installed ## train and export every model as its next version
	.venv/train/bin/python -m training regression
	.venv/train/bin/python -m training clothing
	.venv/train/bin/python -m training activity
	$(if $(CLOTHING_PHOTOS_DIR),.venv/train/bin/python -m training photos,@echo "photos is left out: CLOTHING_PHOTOS_DIR names no folder with its pictures")
	.venv/train/bin/python -m training report

folder: $(TRAIN)/installed ## train on your own pictures, a folder per class: PICTURES=folder (or first:second) NAME=model (HEIC=1 reads HEIC, too)
	$(TRAIN)/bin/python -m training folder '$(subst :,' ',$(PICTURES))' --name '$(NAME)'

exercises: .venv/train/installed ## what units, epochs and convolutions do: table and curves in exercises/ (20 minutes of processor time; QUICK=1: one)
	.venv/train/bin/python -m training exercises $(if $(QUICK),--quick)

test: lint ## lint, types, and every test that this machine can run; says which it skipped and why
	@# Other servers' clients, whose packages do not go with ours; where they cannot be had, their tests are skipped.
	@$(MAKE) --no-print-directory .venv/clients/installed || true
	.venv/dev/bin/coverage erase
	.venv/dev/bin/coverage run -m pytest --numprocesses logical --dist loadgroup
	.venv/dev/bin/coverage combine --quiet
	.venv/dev/bin/coverage report --fail-under=95

lint: .venv/dev/installed ## lint, format, types and layers of imports; the Dockerfile, too
	.venv/dev/bin/ruff check
	.venv/dev/bin/ruff format --check
	.venv/dev/bin/mypy
	.venv/dev/bin/lint-imports --no-logo
	.venv/dev/bin/hadolint deploy/Dockerfile

audit: .venv/dev/installed ## known vulnerabilities of the packages that the images hold (asks the package registry)
	.venv/dev/bin/python deploy/audit.py

format: .venv/dev/installed ## mend what the formatter and the linter can mend
	.venv/dev/bin/ruff check --fix
	.venv/dev/bin/ruff format

e2e: .venv/dev/installed ## the container tests alone (need a Docker engine)
	.venv/dev/bin/pytest tests/e2e

fuzz: .venv/dev/installed ## damage pictures, tensors and HTTP at random, 200 times as often as `make test` does (half an hour)
	.venv/dev/bin/pytest --hypothesis-profile=fuzz -k 'fuzz or round_trips' tests/unit

bench: .venv/dev/installed ## measure speed beside yardsticks in the same run (needs wrk; 18 minutes; QUICK=1: two)
	@# A yardstick whose packages cannot be had is left out, and the table says so.
	@$(MAKE) --no-print-directory --keep-going $(YARDSTICKS:%=.venv/%/installed) || true
	.venv/dev/bin/python -m benchmarks.reload $(if $(QUICK),--seconds 10)
	@# Needs a browser (Debian: chromium).
	@! command -v chromium >/dev/null || .venv/dev/bin/python -m benchmarks.page
	.venv/dev/bin/python -m benchmarks $(if $(QUICK),--quick)

soak: .venv/dev/installed ## full load and odd requests: does anything grow? (needs wrk; MINUTES=3; from 10 on it is written into the docs)
	.venv/dev/bin/python -m benchmarks.soak --minutes $(or $(MINUTES),3)

up: ## start service, Prometheus, Alertmanager and Grafana in containers
	docker compose up --build --detach --wait

down: ## stop the containers
	docker compose down

protos: .venv/dev/installed ## compile the messages of gRPC, service/api/grpc/protos/*.proto
	cd service/api/grpc/protos && $(CURDIR)/.venv/dev/bin/python -m grpc_tools.protoc -I . --include_imports \
		--descriptor_set_out=descriptors.binpb *.proto

lock: .venv/dev/installed ## write requirements/*.txt anew from pyproject.toml and requirements/*.in
	@for name in serve full serve-otel full-otel train train-heic dev clients $(YARDSTICKS); do \
		case $$name in \
			serve) from=pyproject.toml ;; \
			full) from='--extra tensorflow pyproject.toml' ;; \
			serve-otel) from='--extra otel pyproject.toml' ;; \
			train-heic) from='--extra heic --extra train pyproject.toml' ;; \
			full-otel) from='--extra otel --extra tensorflow pyproject.toml' ;; \
			bench-*|clients) from=requirements/$$name.in ;; \
			*) from="--extra $$name pyproject.toml" ;; \
		esac; \
		.venv/dev/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
			--no-header --no-emit-index-url --no-emit-find-links $(LOCK) $$from \
			--output-file requirements/$$name.txt || exit 1; \
	done

clean: ## remove the virtual environments and caches
	rm -rf .venv .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

# A virtual environment holds exactly its lock file. The lock is complete: pip need not look for more (--no-deps);
# nor compile thousands of files that are never imported (--no-compile). TensorFlow has wheels up to Python 3.13.
.venv/%/installed: newest = $(if $(filter serve serve-otel,$*),14,13)
.venv/%/installed: requirements/%.txt
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
		! $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(newest)))' 2>/dev/null || break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 to 3.$(newest) is needed, not '$$($(or $(PYTHON),python3) -V 2>&1 | head -n 1)'." \
			"Install one, or name one: make PYTHON=/path/to/python3.12 ..." >&2; \
		exit 1; \
	fi; \
	echo "Setting up .venv/$* (once) ..."; \
	$$python -m venv --clear .venv/$*
	@.venv/$*/bin/python -m pip install --quiet --require-hashes --no-deps --no-compile --only-binary :all: -r $<
	@touch $@

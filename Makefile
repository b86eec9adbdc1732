VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' srgan_ray/__init__.py)

.PHONY: setup demo test check audit lock image

# Installs once, and again when what is needed has changed.
setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/srgan-ray demo --out demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/cluster/test_image.py
	$(BIN)/python cluster/audit.py

audit: setup
	$(BIN)/python cluster/audit.py

# Everything the package needs, in the newest versions that its oldest Python has. From PyPI, whatever pip is set to.
lock: setup
	$(BIN)/uv pip compile pyproject.toml --output-file cluster/requirements.lock --upgrade --quiet \
		--no-config --python-version 3.11 --python-platform linux \
		--only-binary :all: --generate-hashes --no-annotate --custom-compile-command 'make lock'
	sed -i "s/# sha256 .*/# sha256 $$(sha256sum < cluster/requirements.lock | cut -c -64)\"/" cluster/runtime_env.yaml

image:
	docker build --file cluster/Dockerfile --tag srgan-ray:$(VERSION) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) .

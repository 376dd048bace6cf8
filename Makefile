# `make help` lists what there is. Everything runs in .venv, which is made when it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROMPT ?= a photo of a man raising his arms

.DEFAULT_GOAL := help
.PHONY: help install demo test format bench bench-gpu icons fidelity emoji table-svg table-methods table-toybox table-nerf-toybox toybox figure-demo figure-nerf figure-toy2d clean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP) ## make .venv with the pinned versions of constraints.txt

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "pds needs Python 3.11 or newer: run make PYTHON=<path to it>." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,toybox,colmap]'
	@touch $@

demo: $(STAMP) ## fit a NeRF, edit it by text with PDS, and say where the report is (PROMPT=…)
	$(BIN)/pds edit scene=figurine 'prompt=$(PROMPT)'

test: $(STAMP) ## ruff, mypy and all tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

format: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP) ## speed: each script of benchmarks/ against its stated alternative
	@for script in $(filter-out benchmarks/gpu_% benchmarks/fidelity_%,$(wildcard benchmarks/[a-z]*.py)); do \
	  echo "# $$script"; $(BIN)/python $$script || exit 1; done

bench-gpu: $(STAMP) ## speed and memory of a NeRF edit step at Stable Diffusion's size (needs CUDA)
	$(BIN)/python benchmarks/gpu_edit_step.py

ICONS = data.icons=outputs/data/icons data.folder=outputs/data/emoji64 \
  'preview.prompts=[a cat face,a dog face,a red apple,a green apple,grinning face,a deciduous tree,a red heart,an automobile]' \
  preview.columns=3

icons: ## fetch the open icon sets (npm), for fidelity, for benchmarks and for training
	npm install --no-save --no-audit --no-fund --prefix outputs/data/icons \
	  @twemoji/svg@15.0.0 @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 \
	  emojibase-data@17.0.0

fidelity: $(STAMP) ## how like resvg's our pictures of 3,000 icons are (after make icons)
	$(BIN)/python benchmarks/fidelity_svg.py

table-toybox: $(STAMP) ## quality: SDS, DDS and PDS against the true edits of the toybox
	$(BIN)/pds compare benchmark=captions
	$(BIN)/pds compare benchmark=toybox

table-methods: $(STAMP) ## quality: every loss and editor against the true edits of the toybox
	$(BIN)/pds compare benchmark=toybox_methods out=outputs/bench/methods

table-nerf-toybox: $(STAMP) ## quality in 3D: six edits of the figurine, seen from all sides
	$(BIN)/pds compare benchmark=nerf_toybox

table-svg: icons $(STAMP) ## quality on drawings: names of icons, and twelve edits
	$(BIN)/pds compare benchmark=icon_names backbone=emoji out=outputs/bench/icon_names
	$(BIN)/pds compare benchmark=icon_edits backbone=emoji out=outputs/bench/icon_edits
	cp outputs/bench/icon_names/samples.png docs/figures/icon_samples.png
	$(BIN)/python -m pds_cli.figures.svg_edits outputs/bench/icon_edits docs/figures

toybox: $(STAMP) ## render the toybox world and train its backbone (hours on a CPU)
	$(BIN)/pds pretrain out=outputs/pretrain/first
	$(BIN)/pds pretrain out=outputs/pretrain/second 'stages=[denoise]' init=outputs/toybox \
	  denoise.steps=1200 denoise.lr=4e-4 denoise.warmup=50 \
	  denoise.high_noise=0.6 denoise.high_noise_from=0
	$(BIN)/pds pretrain out=outputs/pretrain/third 'stages=[probe,denoise]' init=outputs/toybox \
	  data.folder=outputs/data/toybox64_around data.around=0.5 denoise.steps=5500 \
	  denoise.warmup=100 denoise.high_noise_from=0

emoji: icons $(STAMP) ## train the backbone of icons and their similarity model (hours on a CPU)
	$(BIN)/pds pretrain out=outputs/pretrain/emoji into=outputs/emoji $(ICONS) 'stages=[denoise]' \
	  denoise.steps=8000 denoise.lr=8e-4 denoise.high_noise=0.5 denoise.high_noise_from=0.1
	$(BIN)/pds pretrain out=outputs/pretrain/emoji_second into=outputs/emoji init=outputs/emoji $(ICONS) \
	  'stages=[denoise]' denoise.steps=6000 denoise.lr=5e-4 denoise.warmup=100 \
	  denoise.high_noise=0.5 denoise.high_noise_from=0
	$(BIN)/pds pretrain out=outputs/pretrain/emoji_decode into=outputs/emoji $(ICONS) \
	  'stages=[decode,similarity]' similarity.steps=2500

figure-demo: $(STAMP) ## the picture of the README: four edits with each loss
	$(BIN)/python -m pds_cli.figures.demo

figure-nerf: $(STAMP) ## four edits of the figurine in 3D, as turntables
	$(BIN)/pds edit -m scene=figurine out=outputs/figure_nerf \
	  prompt='"a photo of a man raising his arms","a photo of a man wearing a wizard hat","a photo of a robot","a photo of a man next to a tree"'
	$(BIN)/python -m pds_cli.figures.turntables docs/figures/nerf.png $(addprefix outputs/figure_nerf/,0 1 2 3)

figure-toy2d: $(STAMP) ## the paper's 2D figure: where SDS, DDS and PDS stop
	$(BIN)/python -m pds_cli.figures.toy2d

clean: ## remove .venv, caches and built packages; outputs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pds_cli tests conf benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

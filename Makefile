# `make help` lists what there is. Everything runs in .venv, which is made when it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROMPT ?= a photo of a man raising his arms
# Where pictures, tables and the paper's page go. INTO=docs/figures renews those of the docs; it is
# not taken from the environment, so that tracked files change only when that is said.
INTO = outputs/figures

.DEFAULT_GOAL := help
.PHONY: help install options demo test format bench bench-gpu gpu-wheels gpu-check icons fidelity emoji toybox toybox-pictures \
  toybox-gpu toybox-instruct clean \
  table-toybox table-methods table-nerf-toybox table-splats-toybox table-nerf-methods table-icons figure-demo figure-turntables \
  figure-frontier frontier-image frontier-svg frontier-nerf frontier-drawn \
  paper paper-parts paper-folder table-nerf table-nerf-a table-nerf-b table-svg \
  figure-toy2d figure-image figure-nerf figure-iterative-du figure-refinement figure-svg into

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo "table-…, figure-… and paper write to $(INTO); INTO=docs/figures renews what the docs show."

into:
	@mkdir -p $(INTO)

options: $(STAMP) ## write docs/options.md, every key with its words
	$(BIN)/python -m pds_cli.figures.options docs/options.md

install: $(STAMP) ## make .venv with the pinned versions of constraints.txt

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "pds needs Python 3.11 or newer: run make PYTHON=<path to it>." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,toybox,colmap]'
	@touch $@

demo: $(STAMP) ## fit a scene in 3D, edit it by text with PDS, and say where the report is (PROMPT=…)
	$(BIN)/pds edit scene=figurine 'prompt=$(PROMPT)'

test: $(STAMP) ## ruff, mypy, the floors and all tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports setup.cfg --no-logo
	$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal

format: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP) ## speed: each script of benchmarks/ against its stated alternative
	@for script in $(filter-out benchmarks/gpu_% benchmarks/fidelity_%,$(wildcard benchmarks/[a-z]*.py)); do \
	  echo "# $$script"; $(BIN)/python $$script || exit 1; done

bench-gpu: $(STAMP) ## speed and memory of an edit step at Stable Diffusion's and SDXL's size (needs CUDA)
	$(BIN)/python benchmarks/gpu_edit_step.py

# What a machine with a GPU but without network needs beside the repository, and what it runs there
# with its own Python: make gpu-check, no .venv.
WHEELS ?= outputs/wheels

gpu-wheels: $(STAMP) ## download the wheels that a GPU machine without network lacks (10 MiB)
	$(BIN)/python benchmarks/gpu_wheels.py into=$(WHEELS)

SIZE ?= sd
DEVICE ?= cuda
OUT ?= outputs/gpu
LIMIT ?= 460

gpu-check: ## the device's tests and speed in under 8 minutes, into OUT (SIZE=tiny DEVICE=cpu tries it)
	$(PYTHON) benchmarks/gpu_check.py size=$(SIZE) device=$(DEVICE) out=$(OUT) wheels=$(WHEELS) \
	  seconds=$(LIMIT)

# The pictures are packed where they can be rendered, and travel with the wheels.
toybox-pictures: $(STAMP) ## render the toybox at 128 pixels and pack it for make toybox-gpu (20 MB)
	$(BIN)/python -m pds_cli.toybox.data outputs/data/toybox128 12000 128 0.5 0.5
	$(BIN)/python -m pds_cli.pretraining.album outputs/data/toybox128 outputs/toybox128.zip 128

toybox-gpu: ## train the toybox at 128 pixels in under 8 minutes of a GPU, into OUT (after toybox-pictures)
	$(PYTHON) benchmarks/gpu_toybox.py device=$(DEVICE) out=$(OUT) wheels=$(WHEELS) seconds=$(LIMIT)

ICONS = data.icons=outputs/data/icons data.folder=outputs/data/emoji64 \
  'preview.prompts=[a cat face,a dog face,a red apple,a green apple,grinning face,a deciduous tree,a red heart,an automobile]' \
  preview.columns=3

icons: outputs/data/icons/.installed ## fetch the open icon sets (npm), for fidelity, benchmarks and training

outputs/data/icons/.installed:
	npm install --no-save --no-audit --no-fund --prefix outputs/data/icons \
	  @twemoji/svg@15.0.0 @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 \
	  emojibase-data@17.0.0
	@touch $@

fidelity: $(STAMP) ## how like resvg's our pictures of 3,000 icons are (after make icons)
	$(BIN)/python benchmarks/fidelity_svg.py

table-toybox: $(STAMP) ## quality: SDS, DDS and PDS against the true edits of the toybox
	$(BIN)/pds compare benchmark=captions
	$(BIN)/pds compare benchmark=toybox

table-methods: into $(STAMP) ## quality: every loss and editor against the true edits of the toybox
	$(BIN)/pds compare benchmark=toybox_methods out=outputs/bench/methods
	$(PICTURE) outputs/bench/methods/edits.png $(INTO)/methods.webp

table-nerf-methods: $(STAMP) ## quality in 3D: every loss and dataset update, three seeds (hours)
	$(BIN)/pds compare benchmark=nerf_methods out=outputs/bench/nerf_methods
	$(STRIPS) $(INTO)/nerf_methods.webp outputs/bench/nerf_methods \
	  pds pds_plus ids dds cds dreamcatalyst update_instruct_pix2pix update_ddpm_inversion update_sdedit sds

table-nerf-toybox: $(STAMP) ## quality in 3D: six edits of the figurine, seen from all sides
	$(BIN)/pds compare benchmark=nerf_toybox

table-splats-toybox: $(STAMP) ## quality in 3D: the same edits as NeRFs and as Gaussian splats
	$(BIN)/pds compare benchmark=splats_toybox

table-icons: into icons $(STAMP) ## quality on drawings: names of icons, and twelve edits
	$(BIN)/pds compare benchmark=icon_names backbone=emoji out=outputs/bench/icon_names
	$(BIN)/pds compare benchmark=icon_edits backbone=emoji out=outputs/bench/icon_edits
	$(PICTURE) outputs/bench/icon_names/samples.png $(INTO)/icon_samples.webp
	$(BIN)/python -m pds_cli.figures.svg_edits outputs/bench/icon_edits $(INTO)

# A run that was interrupted, or has ended, is resumed: pretrain <folder> <words>.
PRETRAIN = pretrain() { out=$$1; shift; if test -f $$out/run.json; then set -- resume=$$out; \
  else set -- "out=$$out" "$$@"; fi; echo "pds pretrain $$*"; $(BIN)/pds pretrain "$$@"; }; pretrain

# Small pictures first, where the world and its words are learned quickly; then the branch for 128
# pixels alone, on what the UNet knows; then all of it. The decoder and the probe are trained anew:
# the patches are larger, and there is more to see.
TOYBOX_64 = into=outputs/toybox64
TOYBOX_128 = into=outputs/toybox size=128 model.camera=true model.autoencoder.patch=8 \
  model.autoencoder.latent_channels=48 model.unet.fine_width=64 data.folder=outputs/data/toybox128 \
  data.images=12000 data.fresh=2 data.around=0.5 data.views=0.5
toybox: $(STAMP) ## render the toybox world and train its backbone (hours on a CPU)
	@$(PRETRAIN) outputs/pretrain/first $(TOYBOX_64)
	@$(PRETRAIN) outputs/pretrain/second $(TOYBOX_64) 'stages=[denoise]' init=outputs/toybox64 \
	  denoise.steps=1200 denoise.lr=4e-4 denoise.warmup=50 \
	  denoise.high_noise=0.6 denoise.high_noise_from=0
	@$(PRETRAIN) outputs/pretrain/third $(TOYBOX_64) 'stages=[probe,denoise]' \
	  init=outputs/toybox64 data.folder=outputs/data/toybox64_around data.around=0.5 \
	  denoise.steps=5500 denoise.warmup=100 denoise.high_noise_from=0
	@$(PRETRAIN) outputs/pretrain/branch $(TOYBOX_128) init=outputs/toybox64 'stages=[denoise]' \
	  denoise.trains=branch denoise.steps=1000 denoise.lr=1e-3 denoise.warmup=50 denoise.high_noise=0
	@$(PRETRAIN) outputs/pretrain/all $(TOYBOX_128) init=outputs/toybox \
	  denoise.steps=12000 denoise.lr=4e-4 denoise.warmup=200 \
	  denoise.high_noise=0.3 denoise.high_noise_from=0

toybox-instruct: into $(STAMP) ## train the toybox's model for editor=instruct_pix2pix (an hour on one core)
	@$(PRETRAIN) outputs/pretrain/instruct into=outputs/toybox_instruct init=toybox size=128 \
	  data.pairs=true data.folder=outputs/data/toybox128_pairs data.images=7000 data.around=0.5 \
	  'stages=[denoise]' adapter.rank=24 denoise.steps=3500 denoise.batch_size=16 denoise.lr=1e-3 \
	  denoise.warmup=50 denoise.high_noise=0.4 denoise.high_noise_from=0
	$(PICTURE) outputs/toybox_instruct/samples.png $(INTO)/toybox_instruct.webp

emoji: icons $(STAMP) ## train the backbone of icons and their similarity model (hours on a CPU)
	@$(PRETRAIN) outputs/pretrain/emoji into=outputs/emoji $(ICONS) 'stages=[denoise]' \
	  denoise.steps=8000 denoise.lr=8e-4 denoise.high_noise=0.5 denoise.high_noise_from=0.1
	@$(PRETRAIN) outputs/pretrain/emoji_second into=outputs/emoji init=outputs/emoji $(ICONS) \
	  'stages=[denoise]' denoise.steps=6000 denoise.lr=5e-4 denoise.warmup=100 \
	  denoise.high_noise=0.5 denoise.high_noise_from=0
	@$(PRETRAIN) outputs/pretrain/emoji_decode into=outputs/emoji $(ICONS) \
	  'stages=[decode,similarity]' similarity.steps=2500

figure-demo: $(STAMP) ## the picture of the README: four edits with each loss
	$(BIN)/python -m pds_cli.figures.demo $(INTO)/demo.webp

figure-turntables: $(STAMP) ## the picture of the README: four edits of the figurine in 3D
	$(BIN)/pds edit -m scene=figurine out=outputs/figure_turntables \
	  prompt='"a photo of a man raising his arms","a photo of a man wearing a wizard hat","a photo of a robot","a photo of a man next to a tree"'
	$(BIN)/python -m pds_cli.figures.turntables $(INTO)/turntables.webp \
	  $(addprefix outputs/figure_turntables/,0 1 2 3)

# Parts may run side by side; the figure draws those that were run.
frontier-image: $(STAMP)
	$(BIN)/pds compare benchmark=frontier_image out=outputs/frontier/image

frontier-svg: icons $(STAMP)
	$(BIN)/pds compare benchmark=frontier_svg backbone=emoji out=outputs/frontier/svg

frontier-nerf: $(STAMP)
	$(BIN)/pds compare benchmark=frontier_nerf out=outputs/frontier/nerf

# What was not measured again is taken from the numbers that the docs keep.
frontier-drawn: $(STAMP)
	$(BIN)/python -m pds_cli.figures.frontier outputs $(INTO) docs/figures

figure-frontier: ## the identity dial of PDS, with every other method beside it (hours on two cores; resumes)
	$(MAKE) -j$(JOBS) table-methods table-nerf-methods frontier-image frontier-svg frontier-nerf
	$(MAKE) frontier-drawn

# The paper. Each target takes BACKBONE=<config of pds list backbone> DATA=<folder> for real models
# (docs/paper.md); without them it takes what ships with the package.
ifeq ($(origin DATA),command line)
ifndef BACKBONE
$(error DATA=… is for real models: give BACKBONE=… too, such as BACKBONE=sd15)
endif
export PDS_DATA := $(DATA)
endif
ifdef BACKBONE
PAPER := outputs/paper/$(BACKBONE)
FIGURES := $(PAPER)
WITH = 'benchmark.overrides=[backbone=$(BACKBONE)]'
IMAGE := published_image
NERF := published_nerf
SVG := published_svg
else
PAPER := outputs/paper
FIGURES := $(INTO)/paper
PAGE := $(if $(filter docs/figures,$(INTO)),docs/paper.md,$(INTO)/paper.md)
WITH =
IMAGE := paper_image
NERF := paper_nerf
SVG := icon_edits backbone=emoji
endif
STRIPS = $(BIN)/python -m pds_cli.figures.strips
PICTURE = $(BIN)/python -m pds_cli.figures.picture
# Jobs side by side, each on one core.
JOBS ?= 2

paper: $(STAMP) ## the paper's figures and tables, and paper.md (more than an hour on two cores; resumes)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(MAKE) -j$(JOBS) paper-parts
ifdef BACKBONE
	@echo "figures and tables: $(PAPER)"
else
	$(BIN)/python -m pds_cli.figures.paper $(PAPER) $(PAGE) $(INTO)
endif

paper-parts: table-nerf-a table-nerf-b figure-image figure-svg figure-toy2d figure-nerf figure-iterative-du figure-refinement

paper-folder: $(STAMP)
	@mkdir -p $(FIGURES)

figure-toy2d: $(STAMP) ## the paper's 2D figure: where SDS, DDS and PDS stop
	$(BIN)/python -m pds_cli.figures.toy2d out=$(INTO)

figure-image: paper-folder ## the paper on pictures: SDS, DDS, PDS and one-shot editors
	$(BIN)/pds compare benchmark=$(IMAGE) out=$(PAPER)/image $(WITH)
	$(PICTURE) $(PAPER)/image/edits.png $(FIGURES)/image.webp

# Two halves that may run side by side; the whole takes over what they did.
table-nerf-a: $(STAMP)
	$(BIN)/pds compare benchmark=$(NERF) out=$(PAPER)/nerf 'benchmark.only=[sds,pds,pds_refined]' $(WITH)

table-nerf-b: $(STAMP)
	$(BIN)/pds compare benchmark=$(NERF) out=$(PAPER)/nerf 'benchmark.only=[dds,inversion2nerf,instruct_nerf2nerf]' $(WITH)

table-nerf: table-nerf-a table-nerf-b ## the paper's table: edits of NeRFs by every method
	$(BIN)/pds compare benchmark=$(NERF) out=$(PAPER)/nerf $(WITH)

figure-nerf: table-nerf paper-folder ## the paper on NeRFs: SDS, DDS and PDS, from eight sides
	$(STRIPS) $(FIGURES)/nerf.webp $(PAPER)/nerf sds dds pds_refined

figure-iterative-du: table-nerf paper-folder ## the paper's iterative dataset update beside PDS
	$(STRIPS) $(FIGURES)/iterative_du.webp $(PAPER)/nerf instruct_nerf2nerf inversion2nerf pds

figure-refinement: table-nerf paper-folder ## the paper's refinement stage: before and after
	$(STRIPS) $(FIGURES)/refinement.webp $(PAPER)/nerf pds pds_refined

ifdef BACKBONE
table-svg: $(STAMP)
else
table-svg: icons $(STAMP) ## the paper's table: twelve edits of drawings by SDS, DDS and PDS
endif
	$(BIN)/pds compare benchmark=$(SVG) out=$(PAPER)/svg $(WITH)

figure-svg: table-svg paper-folder ## the paper on drawings: SDS, DDS and PDS
	$(PICTURE) $(PAPER)/svg/edits.png $(FIGURES)/svg.webp

clean: ## remove .venv, caches and built packages; outputs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pds_cli tests conf benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

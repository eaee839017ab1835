.PHONY: test lint bench docs
test: ; tools/check tests
lint: ; tools/check format lint types
bench: ; python tools/bench.py $(or $(NAME),phantom)
docs: ; pytest tests/docs -m "not gpu and not slurm"

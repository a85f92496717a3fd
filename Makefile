# Everything a developer types. Needs Python 3.11, git and make; `scripts/setup` installs the rest.
bin := .venv/bin

.PHONY: help setup setup-tests demo test lint docs

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup:  ## Install what Moorage needs on this machine and in .venv
	@scripts/setup

setup-tests:
	@scripts/setup test

demo: setup  ## Run an example app of each network, isolated
	@scripts/demo

test: lint  ## Check everything: style, types, layers, then all tests
	$(bin)/pytest

lint: setup-tests  ## Check style, types and who imports whom
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports

docs: setup  ## Write the reference pages anew from the code
	$(bin)/python scripts/reference.py

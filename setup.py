"""The C extension; everything else is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["gmpy_rt/_core_build.py:ffibuilder"])

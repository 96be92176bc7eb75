"""Only the library is packaged; projects and tools run from a checkout."""

from setuptools import find_packages, setup

setup(packages=find_packages(include=["dropkey_core", "dropkey_core.*"]))

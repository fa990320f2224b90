"""Entry point for build tools; everything is declared in setup.cfg."""

from setuptools import setup

setup()

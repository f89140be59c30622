"""Gradient checks that explain themselves: ``check_gradients``, ``check_network``, and the catalogue of mistakes."""

from nnlab.verify.catalogue import CATALOGUE
from nnlab.verify.gradients import check_gradients
from nnlab.verify.network import NetworkReport, check_network
from nnlab.verify.report import Finding, GradientReport, Row

__all__ = ["CATALOGUE", "Finding", "GradientReport", "NetworkReport", "Row", "check_gradients", "check_network"]

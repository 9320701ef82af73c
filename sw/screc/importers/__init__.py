"""Trained models from elsewhere: a checkpoint becomes a model and its weights."""

from screc.importers.step import import_checkpoint
from screc.importers.structure import Hints

__all__ = ["Hints", "import_checkpoint"]

"""Factorization of a corpus's PMI matrix: word vectors trained from scratch, through whole or compressed tables."""

from trainables.tasks.pmi.task import Pmi

__all__ = ["Pmi"]

"""Evidence: what a network does before and after pruning, measured the same way."""

from debride.evidence.evaluate import evaluate
from debride.evidence.evidence import Evidence, Sample

__all__ = ["Evidence", "Sample", "evaluate"]

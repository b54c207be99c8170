"""Evidence: what a network does before and after pruning, measured the same way."""

from debride.evidence.evidence import Evidence, Sample
from debride.evidence.measuring import evaluate

__all__ = ["Evidence", "Sample", "evaluate"]

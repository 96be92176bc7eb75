"""DropKey (arXiv 2208.02646): dropout for self-attention that masks keys before the softmax."""

"""The downstream work of the DropKey paper, one folder each; run from a checkout."""

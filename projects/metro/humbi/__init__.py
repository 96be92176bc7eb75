"""HUMBI: its own files, the index made of them, and the records to train on."""

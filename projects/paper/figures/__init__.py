"""The paper's figures: studies of trained runs, and their plots."""

"""The body: its arrays and joints, its file, and SMPL's release read without running it."""

"""The paper itself: its tables as runs and reports, its figures as studies and plots."""

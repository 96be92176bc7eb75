"""Reading the files of strangers, in bounded time and memory; writing ours whole."""

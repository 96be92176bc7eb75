"""Reading untrusted files in bounded time and memory, and writing files atomically."""

"""The data pipeline: preprocessing, the memory-mapped cache, sampling and prefetching."""

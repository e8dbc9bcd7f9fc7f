"""Analysis of finished runs, and besides them: comparison, statistics, search, baselines."""

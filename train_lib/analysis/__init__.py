"""What is made of finished runs and beside them: comparison, statistics, search, baselines."""

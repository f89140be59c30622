"""The baselines that benchmarks and tests share, each as it is best used, one module for each library."""

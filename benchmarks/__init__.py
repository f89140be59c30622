"""nnlab and its peers timed side by side, in one run, on the same samples and the same mathematics."""

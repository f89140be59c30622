"""What nnlab is compared with, each library as it is best used."""

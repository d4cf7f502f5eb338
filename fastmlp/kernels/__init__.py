"""The arithmetic: two modules of kernels with the same names and signatures."""

"""What is verified: the problem, the contract, our kernels, the peers, the reference."""

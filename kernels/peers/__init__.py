"""Other projects' attention kernels, an adapter each.

A peer shows what is usual: our kernels' errors are read beside theirs, and where lineages disagree somebody is wrong.
Each adapter says in sentences where it cannot run and which problems it does not take; what it takes, it must pass,
but for the known failures that `fa2verify.verify.known_failures.built_in` lists.
"""

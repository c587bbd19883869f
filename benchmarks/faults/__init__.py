"""What breaks on a cluster, broken on purpose: nodes, servers and disks of one machine that can be killed one by one.

`benchmarks.chaos` draws from them at random; `tests/faults` breaks each thing by itself.
"""

"""The scenarios for other runtimes: one file each, a function for each scenario.

They answer with plain waits, which the harness sums up (runner.py). Go's are in go/.
"""

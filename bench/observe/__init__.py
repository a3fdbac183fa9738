"""What the instruments cost: python -m bench.observe.overhead"""

"""scoring/metrics"""

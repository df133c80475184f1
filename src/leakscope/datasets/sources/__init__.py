"""datasets/sources"""

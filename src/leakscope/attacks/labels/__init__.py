"""attacks/labels"""

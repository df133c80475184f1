"""attacks/parts"""

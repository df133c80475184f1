"""attacks/inputs"""

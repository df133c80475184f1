"""attacks/parts/priors"""

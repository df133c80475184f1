"""audit/engines"""

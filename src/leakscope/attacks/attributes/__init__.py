"""Attacks that claim an attribute of the person behind the data, such as who spoke."""

"""The nouns of the security game, frozen. Import them from their modules; this file stays empty on purpose.

`attacks` may import `core` but not `core.secret`: a re-export here would open a second door.
"""

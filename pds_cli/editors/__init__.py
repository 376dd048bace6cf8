"""Editors: images edited by text, one at a time, with no knowledge of a scene."""

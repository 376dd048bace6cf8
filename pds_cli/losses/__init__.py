"""Distillation losses on one base: SDS, DDS and PDS, and the rest of the field."""

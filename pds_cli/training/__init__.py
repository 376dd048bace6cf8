"""The one loop, its stages and their objectives: fits, distillation, editors, dataset update."""

"""A read-only snapshot of a model: constants, shapes, costs, expected time, one view of linear operators."""

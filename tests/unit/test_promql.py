from tests.unit.promql import names_in


def test_metric_names_are_told_from_labels_functions_and_operators() -> None:
    expression = 'sum by (le, m) (rate(a_total{m=~"b_total"}[5m])) / on (job) group_left () count(up) or vector(0)'
    assert names_in(expression) == {"a_total", "up"}

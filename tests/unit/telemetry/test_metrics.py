from libs.telemetry import metrics, names


def _named() -> dict[str, str]:
    return {name: value for name, value in vars(names).items() if name.isupper()}


def test_every_metric_has_its_name_from_the_file_of_names_and_every_name_a_metric() -> None:
    registered = {family.name for family in metrics.REGISTRY.collect() if family.name.startswith("dockyard")}
    assert registered == {value for name, value in _named().items() if name.startswith("METRIC_")}


def test_no_two_names_are_the_same() -> None:
    values = list(_named().values())
    assert sorted(values) == sorted(set(values))


def test_metrics_are_rendered_as_prometheus_reads_them() -> None:
    metrics.BATCH_ROWS.labels("test batch").observe(3)
    rendered = metrics.render().decode()
    assert f'{names.METRIC_BATCH_ROWS}_bucket{{batch="test batch",le="2.0"}} 0.0' in rendered
    assert f'{names.METRIC_BATCH_ROWS}_bucket{{batch="test batch",le="4.0"}} 1.0' in rendered
    assert "process_resident_memory_bytes" in rendered
